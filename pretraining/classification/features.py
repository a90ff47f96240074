"""Pooled vectors of an encoder's stages, one a scan: what ``nnUNetv2_genesis_features`` does."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from matplotlib.figure import Figure
from sklearn.decomposition import PCA

from nnunet_genesis.comparison.figures import plain
from nnunet_genesis.errors import GenesisError
from nnunet_genesis.files import rows_path
from pretraining.classification.labelling import read_for, short_names
from pretraining.classification.models import Model, pretrained_model, trained_model
from pretraining.scans.scan import LeftOut


def load(weights: Path, fold: str, device: torch.device) -> Model:
    """A Genesis checkpoint, or a fold of a trained model's folder (the folder itself, or its ``fold_X``)."""
    if not weights.is_dir():
        return pretrained_model(weights, device)
    return trained_model(weights if weights.name.startswith("fold_") else weights / f"fold_{fold}", device)


def extract(
    inputs: Sequence[Path], out: Path, model: Model, device: torch.device, stages: Sequence[int] | None = None,
    labels: Path | None = None,
) -> list[LeftOut]:  # fmt: skip
    """Write the scans' vectors, means over windows that cover the body, as CSV or, by its ending, npz.

    Beside it, as PNG, their first two principal components, coloured by the column ``label`` of the file ``labels``.
    An end in between leaves the finished rows, see :func:`nnunet_genesis.files.rows_path`.
    ``stages`` of the encoder are numbered from 0; ``None``: the last. Returns what is left out.

    Raises:
        GenesisError: there is no such stage, no usable scan, or the label file is wrong.
    """
    network, known = model.network, range(len(model.network.encoder.stages))
    chosen = [known[-1]] if stages is None else list(stages)
    if wrong := [stage for stage in chosen if stage not in known]:
        raise GenesisError(f"--stages {wrong[0]}: this encoder has stages 0 to {known[-1]}. Correct the command.")
    if out.suffix not in (".csv", ".npz"):
        raise GenesisError(f"-o {out}: expected NAME.csv or NAME.npz. Correct the command.")
    scans, left_out = model.find_scans(inputs)
    label_of = {}
    if labels:
        table, _ = read_for(labels, {scan.case: scan.source for scan in scans}, candidates=False)
        label_of = dict(zip(table["case"], table["label"], strict=True))

    def pooled(x: torch.Tensor) -> torch.Tensor:
        outputs = network.encoder(network.input_map(x))
        return torch.cat([outputs[stage].mean((2, 3, 4)) for stage in chosen], 1)

    columns = [f"stage{stage}_{k}" for stage in chosen for k in range(network.encoder.output_channels[stage])]
    vectors: dict[str, np.ndarray] = {}
    with rows_path(out) as path:
        try:
            for scan, _, (outputs,) in model.outputs(scans, [(pooled, ())], device, left_out):
                vectors[scan.case] = outputs.mean(0).numpy()
        finally:
            frame = pd.DataFrame.from_dict(vectors, orient="index", columns=columns)
            _write(path, frame.rename(index=short_names(scans)))
    if len(frame) > 2:
        _draw(out.with_suffix(".png"), frame.to_numpy(), [label_of.get(case, "no label") for case in frame.index])
    return left_out


def _write(out: Path, frame: pd.DataFrame) -> None:
    with open(out, "wb") as stream:
        if out.suffix == ".npz":
            np.savez(
                stream, case=frame.index.to_numpy(str), features=frame.to_numpy(), names=frame.columns.to_numpy(str)
            )
        else:
            frame.to_csv(stream, index_label="case", float_format="%.6g")


def _draw(file: Path, values: np.ndarray, labels: Sequence[str]) -> None:
    places = PCA(2).fit_transform((values - values.mean(0)) / (values.std(0) + 1e-8))
    figure = Figure(figsize=(6, 5))
    axes = figure.subplots()
    for label in sorted(set(labels)):
        axes.plot(*places[np.array(labels) == label].T, "o", ms=4, label=plain(label))
    axes.set(xlabel="first principal component", ylabel="second")
    axes.legend(loc="upper right")
    figure.savefig(file, dpi=120)
