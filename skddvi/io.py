"""Reading the file formats of the fields that the likelihoods are made for."""

from pathlib import Path

from sklearn.utils import Bunch

__all__ = ["read_plink"]


def read_plink(prefix, *, variants=None):
    """Read genotypes from a PLINK 1 file set: .bed, .bim and .fam.

    Missing calls become NaN, which the binomial likelihood leaves out; nothing is imputed. Needs
    bed-reader, which the extra ``skddvi[plink]`` brings.

    Parameters
    ----------
    prefix : str or path-like
        Path of the three files without their endings; with ``.bed`` at its end it is accepted too.
    variants : slice, array-like of int or array-like of bool, default=None
        Which variants to read, by their place in the .bim file, so that a large file need not fit
        into memory: ``slice(None, None, 10)`` is every tenth. None reads all of them.

    Returns
    -------
    genotypes : :class:`sklearn.utils.Bunch`
        With v variants of n people:

        - ``data``, ndarray of float32 of shape (n, v): copies of ``counted_alleles``, 0, 1 or 2,
          and NaN for a missing call;
        - ``feature_names``, ndarray of str of shape (v,): names of the variants;
        - ``sample_ids`` and ``family_ids``, ndarray of str of shape (n,);
        - ``chromosomes``, ndarray of str, and ``positions``, ndarray of int, of shape (v,);
        - ``counted_alleles`` and ``other_alleles``, ndarray of str of shape (v,): the first and the
          second allele of the .bim file.

    Raises
    ------
    ImportError
        When bed-reader is not installed.
    FileNotFoundError
        When one of the three files is not there.
    ValueError
        When the .bed file is not one, or is not as long as the other two say.

    Examples
    --------
    >>> import os, tempfile
    >>> import numpy as np
    >>> from bed_reader import to_bed
    >>> from skddvi.io import read_plink
    >>> folder = tempfile.TemporaryDirectory()
    >>> prefix = os.path.join(folder.name, "people")
    >>> to_bed(prefix + ".bed", np.array([[0, 2, np.nan], [1, 1, 0]]))
    >>> genotypes = read_plink(prefix)
    >>> genotypes.data
    array([[ 0.,  2., nan],
           [ 1.,  1.,  0.]], dtype=float32)
    >>> genotypes.feature_names.tolist()
    ['sid1', 'sid2', 'sid3']
    """
    try:
        from bed_reader import open_bed
    except ImportError as error:
        raise ImportError(
            "read_plink needs bed-reader, which is not installed: pip install 'skddvi[plink]'"
        ) from error
    prefix = Path(prefix)
    if prefix.suffix == ".bed":
        prefix = prefix.with_suffix("")
    # Not with_suffix: a prefix may hold dots.
    paths = {ending: Path(f"{prefix}.{ending}") for ending in ("bed", "bim", "fam")}
    for path in paths.values():
        if not path.is_file():
            raise FileNotFoundError(
                f"prefix={str(prefix)!r} needs the files .bed, .bim and .fam, found no {path}."
            )
    _check_start(paths["bed"])
    with open_bed(paths["bed"]) as bed:
        _check_length(paths["bed"], bed.iid_count, bed.sid_count)
        chosen = slice(None) if variants is None else variants
        return Bunch(
            data=bed.read(None if variants is None else variants, dtype="float32", order="C"),
            feature_names=bed.sid[chosen],
            sample_ids=bed.iid,
            family_ids=bed.fid,
            chromosomes=bed.chromosome[chosen],
            positions=bed.bp_position[chosen],
            counted_alleles=bed.allele_1[chosen],
            other_alleles=bed.allele_2[chosen],
        )


def _check_start(path):
    """Raise unless a file starts as a .bed file does."""
    with open(path, "rb") as file:
        start = file.read(3)
    if start != b"\x6c\x1b\x01":
        raise ValueError(
            f"{path} must start with the bytes 6c1b01 of a PLINK 1 .bed file in the order of "
            f"variants, found {start.hex()}; plink --make-bed writes one."
        )


def _check_length(path, n_people, n_variants):
    """Raise unless a .bed file is as long as people and variants need."""
    wanted, found = 3 + n_variants * -(-n_people // 4), path.stat().st_size
    if found != wanted:
        raise ValueError(
            f"{path} must have {wanted} bytes for the {n_people} people of the .fam file and the "
            f"{n_variants} variants of the .bim file, found {found}: it is damaged or not theirs."
        )
