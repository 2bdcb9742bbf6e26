"""Write the file of schema 1 and the numbers that it shall go on giving.

Not to be run again once a version with this schema is released: from then on the file is a witness.
"""

import json
from pathlib import Path

import numpy as np
import pandas as pd
import torch

import skddvi
from skddvi.likelihoods import GaussianLikelihood
from skddvi.priors import GaussianMixturePrior

FOLDER = Path(__file__).parent


def main():
    X = np.random.default_rng(0).normal(size=(40, 3)).round(3) * [1, 10, 100]
    names = ["width", "größe", "数"]
    frame = pd.DataFrame(X, columns=names)
    model = skddvi.DDVAETransformer(
        prior=GaussianMixturePrior([[-1.0, 0.0], [1.0, 0.0]], scales=0.5),
        likelihood=GaussianLikelihood(variance="learned"),
        hidden_layer_sizes=(4,),
        denoiser_width=4,
        n_diffusion_steps=3,
        max_iter=np.int64(5),
        random_state=0,
    ).fit(frame)
    skddvi.save(model, FOLDER / "schema_1.safetensors")
    few = frame.iloc[:4]
    latents = model.transform(few)
    expected = {
        "names": names,
        "X": few.to_numpy().tolist(),
        "transform": latents.tolist(),
        "score_samples": model.score_samples(few).tolist(),
        "inverse_transform": model.inverse_transform(latents).tolist(),
        "log_prior": model.prior_.log_prob(torch.tensor(latents)).tolist(),
        "elbo": model.history_["elbo"],
    }
    (FOLDER / "schema_1.json").write_text(json.dumps(expected, indent=1) + "\n")


if __name__ == "__main__":
    main()
