"""The PLINK reader."""

import sys

import numpy as np
import pytest

from skddvi import DDVAETransformer
from skddvi.io import read_plink

bed_reader = pytest.importorskip("bed_reader")

CALLS = np.array([[0, 2, np.nan, 1], [1, 1, 0, 2], [2, np.nan, 2, 0], [0, 0, 1, 1], [2, 1, 1, 0]])


@pytest.fixture
def prefix(tmp_path):
    """Write five people and four variants; return the prefix, which holds a dot."""
    prefix = tmp_path / "people.chr1"
    bed_reader.to_bed(
        f"{prefix}.bed",
        CALLS,
        properties={
            "fid": list("fghij"),
            "iid": list("abcde"),
            "sid": ["rs1", "rs2", "rs3", "rs4"],
            "chromosome": ["1", "1", "X", "22"],
            "bp_position": [5, 6, 7, 8],
            "allele_1": list("ACGT"),
            "allele_2": list("TGCA"),
        },
    )
    return prefix


def test_calls_are_dosages_of_the_first_allele(prefix):
    genotypes = read_plink(prefix)
    np.testing.assert_array_equal(genotypes.data, CALLS)
    assert genotypes.data.dtype == np.float32
    assert genotypes.data.flags.c_contiguous
    assert genotypes.feature_names.tolist() == ["rs1", "rs2", "rs3", "rs4"]
    assert genotypes.sample_ids.tolist() == list("abcde")
    assert genotypes.family_ids.tolist() == list("fghij")
    assert genotypes.chromosomes.tolist() == ["1", "1", "X", "22"]
    assert genotypes.positions.tolist() == [5, 6, 7, 8]
    assert genotypes.counted_alleles.tolist() == list("ACGT")
    assert genotypes.other_alleles.tolist() == list("TGCA")


def test_bytes_are_decoded_as_the_format_says(tmp_path):
    # Written by hand, not by bed-reader: 00 two copies of the first allele, 10 one, 11 none,
    # 01 missing, the first person in the lowest bits.
    (tmp_path / "raw.bed").write_bytes(bytes([0x6C, 0x1B, 0x01, 0b01111000]))
    (tmp_path / "raw.bim").write_text("1\trs1\t0\t5\tA\tC\n")
    (tmp_path / "raw.fam").write_text("".join(f"f{i} p{i} 0 0 0 -9\n" for i in range(4)))
    np.testing.assert_array_equal(read_plink(tmp_path / "raw").data, [[2], [1], [0], [np.nan]])


@pytest.mark.parametrize(
    "variants",
    [slice(None, None, 2), [3, 0], np.array([True, False, False, True])],
    ids=["slice", "indices", "mask"],
)
def test_some_variants(prefix, variants):
    genotypes = read_plink(prefix, variants=variants)
    np.testing.assert_array_equal(genotypes.data, CALLS[:, variants])
    for name in ("feature_names", "chromosomes", "positions", "counted_alleles", "other_alleles"):
        assert len(genotypes[name]) == genotypes.data.shape[1]
    names = np.array(["rs1", "rs2", "rs3", "rs4"])[variants]
    assert genotypes.feature_names.tolist() == names.tolist()
    assert len(genotypes.sample_ids) == 5


def test_prefix_with_its_ending_or_as_text(prefix):
    for given in (f"{prefix}.bed", str(prefix)):
        np.testing.assert_array_equal(read_plink(given).data, CALLS)


def test_binomial_likelihood_takes_what_is_read(prefix):
    X = read_plink(prefix).data
    model = DDVAETransformer(
        likelihood="binomial", hidden_layer_sizes=(8,), max_iter=2, random_state=0
    ).fit(X)
    assert np.isfinite(model.transform(X)).all()
    assert np.isfinite(model.score(X))


@pytest.mark.parametrize("ending", ["bed", "bim", "fam"])
def test_missing_file(prefix, ending):
    missing = prefix.parent / f"{prefix.name}.{ending}"
    missing.unlink()
    with pytest.raises(FileNotFoundError, match=rf"prefix=.*found no .*{ending}"):
        read_plink(prefix)


def test_files_of_different_sets(prefix):
    with open(f"{prefix}.fam", "a") as file:
        file.write("k k 0 0 0 -9\n" * 4)
    with pytest.raises(ValueError, match=r"15 bytes for the 9 people .* 4 variants"):
        read_plink(prefix)


def test_truncated_file(prefix):
    path = prefix.parent / f"{prefix.name}.bed"
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(ValueError, match=r"11 bytes .* found 10: it is damaged"):
        read_plink(prefix)


def test_not_a_bed_file(prefix):
    path = prefix.parent / f"{prefix.name}.bed"
    path.write_bytes(b"chr1 5 6\n\n\n"[: path.stat().st_size])
    with pytest.raises(ValueError, match=r"must start with the bytes 6c1b01 .* found 636872"):
        read_plink(prefix)


def test_missing_bed_reader(prefix, monkeypatch):
    monkeypatch.setitem(sys.modules, "bed_reader", None)
    with pytest.raises(ImportError, match=r"pip install 'skddvi\[plink\]'"):
        read_plink(prefix)
