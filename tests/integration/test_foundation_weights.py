"""Anyone's weights, from their repository to one's own: import, plan, go on, fine-tune, predict, export, import."""

import dataclasses
import json
import os
import shutil
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from nnunetv2.experiment_planning.plan_and_preprocess_api import preprocess_dataset
from nnunetv2.run.run_training import run_training

from nnunet_genesis import checkpoint, cli, importers
from nnunet_genesis.architectures.planning import plan_network, summary
from nnunet_genesis.checkpoint.architecture import PLAIN, RESIDUAL
from nnunet_genesis.errors import GenesisError
from nnunet_genesis.importers.repository import FILES
from nnunet_genesis.inspection import inspect_weights
from nnunet_genesis.sharing.hub_export import export_hub, to_text
from pretraining.run import BEGUN, pretrain
from tests.conftest import DATA
from tests.integration.predicting import predict
from tests.integration.tiny_world import make_raw_dataset
from tests.nnunet_genesis.importers.test_planned_files import (
    IMPORTED,
    arguments,
    network,
    nnssl_content,
    of_plain_types,
)

CPU = torch.device("cpu")
README = "---\nlicense: cc-by-sa-4.0\n---\n# Foundation\n```bibtex\n@article{a, title={Foundation}}\n```\n"
PLANS, CONFIG = "nnUNetGenesisPlans", "3d_fullres"
PATCH = [52, 52, 52]  # a case in one window


@dataclasses.dataclass
class Walk:
    """One way through all commands; files by what they are."""

    dataset: str
    root: Path
    weights: Path
    plans: Path
    continued: Path
    tuned: Path


def make_raw(raw: Path, dataset: str, source: str) -> str:
    """Five cases of a real data set, or made-up ones where there is none; returns the data set's name."""
    name = f"Dataset{dataset}_Few"
    if not (DATA / source).is_dir():
        make_raw_dataset(raw, name, {"background": 0, "outer": 1, "inner": 2})
        return name
    description = json.loads((DATA / source / "dataset.json").read_text())
    for label in sorted((DATA / source / "labelsTr").glob("*.nii.gz"))[:5]:
        images = (DATA / source / "imagesTr").glob(f"{label.name.partition('.')[0]}_*.nii.gz")
        for file, folder in [(label, "labelsTr"), *((image, "imagesTr") for image in images)]:
            (raw / name / folder).mkdir(parents=True, exist_ok=True)
            shutil.copyfile(file, raw / name / folder / file.name)
    (raw / name / "dataset.json").write_text(json.dumps(description | {"numTraining": 5}))
    return name


def make_repository(folder: Path, kind: str) -> Path:
    """A repository of nnssl's, with the whole network in random values."""
    folder.mkdir()
    content = nnssl_content(network_weights=network(kind, outputs=1).state_dict())
    plans = {"arch_class_name": kind.rpartition(".")[2], "arch_kwargs": arguments(kind)}
    content["nnssl_adaptation_plan"]["architecture_plans"] = plans | {"arch_kwargs_requiring_import": IMPORTED}
    stem = "encoder.stem" if kind == RESIDUAL else "encoder.stages.0"
    content["nnssl_adaptation_plan"]["key_to_stem"] = stem
    torch.save(content, folder / "checkpoint_final.pth")
    (folder / "adaptation_plan.json").write_text(json.dumps(content["nnssl_adaptation_plan"]))
    (folder / "config.json").write_text("{}")
    (folder / "README.md").write_text(README)
    return folder


@pytest.fixture(scope="module")
def walk(nnunet_folders: dict[str, Path], tmp_path_factory: Any) -> Walk:
    """Residual weights on CTs: import, plan, preprocess, two steps of pretraining and two of fine-tuning."""
    dataset = "812"
    root = tmp_path_factory.mktemp("a walk")
    name = make_raw(nnunet_folders["nnUNet_raw"], dataset, "Dataset044_LIDCNodule")
    imported = importers.convert(make_repository(root / "theirs", RESIDUAL), origin="hf:THEM/Foundation@0123")
    weights = root / "genesis.pth"
    checkpoint.save(imported.checkpoint, weights)
    plans = plan_network(dataset, weights, patch_size=PATCH, batch_size=2, whole=True)
    preprocess_dataset(int(dataset), PLANS, [CONFIG], num_processes=[1], show_progress_bar=False)
    options = {"epochs": 1, "iterations": 2, "precision": "fp32"}
    continued = pretrain(dataset, CONFIG, PLANS, "all", device=CPU, init=weights, **options)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("nnUNet_extTrainer", str(cli.trainers_folder()))
        patch.setenv("nnUNet_genesis_weights", str(continued))
        patch.setenv("nnUNet_genesis_epochs", "1")
        patch.setenv("nnUNet_genesis_iterations", "2")
        run_training(dataset, CONFIG, 0, "nnUNetTrainerGenesisFull", PLANS, device=CPU)
    model = nnunet_folders["nnUNet_results"] / name / f"nnUNetTrainerGenesisFull__{PLANS}__{CONFIG}"
    return Walk(dataset, root, weights, plans, continued, model / "fold_0" / "checkpoint_final.pth")


def record(file: Path) -> dict[str, Any]:
    return torch.load(file, weights_only=True)["genesis"]


def test_the_planned_network_takes_the_weights_whole_and_the_data_stay_nnunets(walk):
    plans = json.loads(walk.plans.read_text())
    planned = plans["configurations"][CONFIG]
    assert (planned["patch_size"], planned["batch_size"]) == (PATCH, 2)
    scheme = "CTNormalization" if DATA.is_dir() else "ZScoreNormalization"
    assert planned["normalization_schemes"] == [scheme]
    assert plans["genesis"] == {"weights": str(walk.weights.resolve()), "sha256": sha256(walk.weights)}
    assert "100.0% of the encoder's parameters, 100.0% of the decoder's" in summary(walk.plans)


def sha256(file: Path) -> str:
    return importers.read(file).sha256


def test_lineage_citations_and_licence_go_along(walk):
    found = record(walk.continued)
    (parent,) = found["lineage"]
    assert (parent["file"], parent["sha256"]) == ("genesis.pth", sha256(walk.weights))
    assert parent["imported"]["source"] == "hf:THEM/Foundation@0123"
    assert found["licence"] == parent["licence"] == "cc-by-sa-4.0"
    assert any("Models Genesis" in text for text in found["citations"])
    assert "@article{a, title={Foundation}}" in found["citations"]
    log = "\n".join(file.read_text() for file in walk.continued.parent.glob("training_log*.txt"))
    assert "encoder: 100.0% of the parameters" in log
    assert "decoder: 100.0% of the parameters" in log
    assert "Licence: cc-by-sa-4.0, the strictest" in log
    assert str(walk.root) not in json.dumps({**found, "plans": None})
    told, _ = inspect_weights(walk.continued, None, CONFIG, PLANS)
    assert f"from:        file genesis.pth, sha256 {parent['sha256']}" in told
    assert "strictest:   cc-by-sa-4.0" in told


def test_a_run_goes_on_without_the_weights_and_not_with_others(walk, tmp_path, monkeypatch):
    gone = walk.weights.rename(tmp_path / "moved.pth")
    options = {"device": CPU, "continue_training": True}
    assert pretrain(walk.dataset, CONFIG, PLANS, "all", init=walk.weights, epochs=2, **options) == walk.continued
    assert record(walk.continued)["lineage"][0]["file"] == "genesis.pth"
    (walk.continued.parent / BEGUN).touch()
    with monkeypatch.context() as torchrun:
        torchrun.setenv("TORCHELASTIC_RESTART_COUNT", "1")
        assert pretrain(walk.dataset, CONFIG, PLANS, "all", init=walk.weights, device=CPU, epochs=2) == walk.continued
    with pytest.raises(GenesisError, match="was started with weights of the SHA-256"):
        pretrain(walk.dataset, CONFIG, PLANS, "all", init=walk.continued, **options)
    gone.rename(walk.weights)


@pytest.mark.parametrize("what", ["continued", "tuned"])
def test_exported_weights_are_a_repository_that_our_own_import_reads(walk, what, tmp_path, monkeypatch):
    folder = tmp_path / "to share"
    monkeypatch.setattr(sys, "argv", ["nnUNetv2_genesis_export", "--hub", str(folder), str(getattr(walk, what))])
    with pytest.raises(SystemExit) as stop:
        cli.export()
    assert stop.value.code == 0
    assert sorted(os.listdir(folder)) == sorted(FILES)
    content = torch.load(folder / "checkpoint_final.pth", weights_only=True)
    assert of_plain_types({key: value for key, value in content.items() if key != "network_weights"})
    assert content["nnssl_adaptation_plan"] == json.loads((folder / "adaptation_plan.json").read_text())
    assert all(entry.keys() == {"type", "name", "apa_citations"} for entry in content["citations"])
    texts = json.dumps([content["genesis"], content["nnssl_adaptation_plan"], content["citations"]])
    card = (folder / "README.md").read_text()
    cases = [file.name.split("_0000")[0] for file in (walk_raw(walk) / "imagesTr").iterdir()]
    for private in (str(walk.root), str(walk.plans.parent.parent), *cases):
        assert private not in texts + card
    again = importers.convert(folder)
    assert not again.notes
    assert not again.not_placed
    assert again.record["licence"] == "cc-by-sa-4.0"
    parents = [entry["file"] for entry in again.record["lineage"]]
    assert parents == (["genesis.pth"] if what == "continued" else ["genesis.pth", "checkpoint_final.pth"])
    assert "base_model:\n- THEM/Foundation\n" in card
    assert "@article{a, title={Foundation}}" in card
    checkpoint.save(again.checkpoint, tmp_path / "again.pth")
    plan_network(walk.dataset, tmp_path / "again.pth", patch_size=PATCH, plans_name=f"Again{what}", whole=True)


def walk_raw(walk: Walk) -> Path:
    return next(Path(os.environ["nnUNet_raw"]).glob(f"Dataset{walk.dataset}_*"))


def test_a_fine_tuned_network_predicts(walk, tmp_path, monkeypatch):
    monkeypatch.setenv("nnUNet_extTrainer", str(cli.trainers_folder()))
    image = min((walk_raw(walk) / "imagesTr").iterdir())
    (tmp_path / "in").mkdir()
    shutil.copyfile(image, tmp_path / "in" / image.name)
    flags = ["-d", walk.dataset, "-c", CONFIG, "-p", PLANS, "-tr", "nnUNetTrainerGenesisFull", "-f", "0"]
    predict(tmp_path / "in", tmp_path / "out", *flags)
    assert len(list((tmp_path / "out").glob("*.nii.gz"))) == 1


def test_plain_weights_likewise(walk, tmp_path):
    weights = tmp_path / "plain.safetensors"
    checkpoint.save(importers.convert(make_repository(tmp_path / "plain", PLAIN)).checkpoint, weights)
    assert "100.0% of the decoder's" in summary(plan_network(walk.dataset, weights, plans_name="Plain", whole=True))
    options = {"device": CPU, "epochs": 1, "iterations": 1, "precision": "fp32"}
    found = pretrain(walk.dataset, CONFIG, "Plain", "all", init=weights, **options)
    assert record(found)["lineage"][0]["file"] == "plain.safetensors"
    with pytest.raises(GenesisError, match=r"network is plain, .*nnUNetv2_genesis_plan -d DATASET --for"):
        pretrain(walk.dataset, CONFIG, PLANS, 0, init=weights, **options)


def test_a_laxer_licence_is_warned_of(walk, tmp_path):
    weights = export_hub(walk.continued, tmp_path / "mine", licence="MIT")
    assert "under cc-by-sa-4.0, which may allow less" in to_text(weights, tmp_path, panels=False)
    card = (tmp_path / "mine" / "README.md").read_text()
    assert card.startswith("---\nlicense: mit\n")
    assert "**That may allow less" in card


def test_what_cannot_be_planned_is_said(walk, tmp_path):
    with pytest.raises(GenesisError, match=r"--patch \[52, 52, 50\].*expected multiples of .*The closest is"):
        plan_network(walk.dataset, walk.weights, patch_size=[52, 52, 50], whole=True)
    with pytest.raises(GenesisError, match="expected numbers above 0"):
        plan_network(walk.dataset, walk.weights, batch_size=0, whole=True)
    with pytest.raises(GenesisError, match="exists already and is for other weights"):
        plan_network(walk.dataset, walk.continued, whole=True)
    huge = torch.load(walk.weights, weights_only=True)
    architecture = huge["genesis"]["plans"]["configurations"][CONFIG]["architecture"]
    architecture["arch_kwargs"]["features_per_stage"] = [60_000] * 3
    torch.save(huge, tmp_path / "huge.pth")
    with pytest.raises(GenesisError, match=r"expected a tensor .* of shape \[60000"):
        plan_network(walk.dataset, tmp_path / "huge.pth", plans_name="Huge", whole=True)


def test_the_weights_spacing_on_request(walk):
    file = plan_network(walk.dataset, walk.weights, pretrained_spacing=True, plans_name="Theirs", whole=True)
    planned = json.loads(file.read_text())["configurations"][CONFIG]
    assert planned["spacing"] == [1, 1, 1]


def test_pictures_only_on_request_and_only_where_there_are_any(walk, tmp_path):
    export_hub(walk.continued, tmp_path / "with", panels=True)
    assert sorted(os.listdir(tmp_path / "with")) == sorted([*FILES, "restoration.png"])
    with pytest.raises(GenesisError, match="expected restoration_epoch"):
        export_hub(walk.tuned, tmp_path / "without", panels=True)
    with pytest.raises(GenesisError, match="isn't an empty folder"):
        export_hub(walk.continued, tmp_path / "with")
