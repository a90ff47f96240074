"""What a repository of weights says, and what stays behind; exports of whole runs are in the integration tests."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from nnunet_genesis import checkpoint, importers
from nnunet_genesis.checkpoint.lineage import CITATIONS, nnssl_citations
from nnunet_genesis.errors import GenesisError
from nnunet_genesis.sharing.hub_export import export_hub, to_text, without_paths
from tests.nnunet_genesis.importers.test_planned_files import from_v2, v2_content


def saved(folder: Path, name: str = "genesis.pth", **changes: Any) -> Path:
    """An imported checkpoint; ``changes`` of its record."""
    content = from_v2(v2_content()).checkpoint
    content["genesis"] |= changes
    checkpoint.save(content, folder / name)
    return folder / name


def test_the_card_names_the_decoders_trainer_where_there_is_a_decoder(tmp_path):
    file = saved(tmp_path)
    export_hub(file, tmp_path / "whole")
    assert "-tr nnUNetTrainerGenesisFull\n" in (tmp_path / "whole" / "README.md").read_text()
    content = checkpoint.load(file)
    content["network_weights"] = {n: v for n, v in content["network_weights"].items() if n.startswith("encoder.")}
    checkpoint.save(content, file)
    export_hub(file, tmp_path / "encoder")
    assert "-tr nnUNetTrainerGenesis\n" in (tmp_path / "encoder" / "README.md").read_text()


def front(folder: Path) -> dict[str, Any]:
    return yaml.safe_load((folder / "README.md").read_text().split("---\n")[1])


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("/home/me/scans/a.pth", "a.pth"),
        ("see /home/me/Mueller^Hans/a.pth, please", "see a.pth, please"),
        (r"C:\Users\me\a.pth", "a.pth"),
        (r"\\server\share\a.pth", "a.pth"),
        ("~/weights/a.pth and ~/b.pth", "a.pth and b.pth"),
        ("'/data/x/y'", "'y'"),
        ("https://doi.org/10.1016/j.media.2020.101840", "https://doi.org/10.1016/j.media.2020.101840"),
        ("hf:ORG/NAME@0123", "hf:ORG/NAME@0123"),
        ("doi:10.1/2 and/or 3/4", "doi:10.1/2 and/or 3/4"),
        ({"a": ["/x/y", 7, None]}, {"a": ["y", 7, None]}),
    ],
)
def test_folders_are_taken_from_paths_and_nothing_from_addresses(text, expected):
    assert without_paths(text) == expected


@pytest.mark.parametrize(
    ("licence", "found"),
    [
        ("CC BY-SA 4.0", {"license": "cc-by-sa-4.0"}),
        ("Apache-2.0", {"license": "apache-2.0"}),
        ("ours: see /etc/licence", {"license": "other", "license_name": "ours: see licence"}),
        ("a\n---\nlicense: mit", {"license": "other", "license_name": "a --- license: mit"}),
        ("not stated", {}),
    ],
)
def test_the_licence_is_the_hubs_identifier_or_other(tmp_path, licence, found):
    file = saved(tmp_path, licence=licence)
    weights = export_hub(file, tmp_path / "out")
    card = front(tmp_path / "out")
    assert {key: value for key, value in card.items() if key.startswith("license")} == found
    assert (card["library_name"], card["pipeline_tag"]) == ("nnunetv2", "image-segmentation")
    assert ("nobody may use them" in to_text(weights, tmp_path, panels=False)) == (not found)
    again = importers.convert(tmp_path / "out").record["licence"]
    assert again == (next(reversed(found.values())) if found else licence)


def test_what_is_not_about_the_weights_stays_behind(tmp_path):
    secret = "/data/Mueller^Hans/scan.nii.gz"
    file = saved(tmp_path, "genesis.safetensors", method=f"trained on {secret}", options={"init": secret},
                 data={"channel_names": {"0": "CT"}, "dataset": {"case": secret}},
                 lineage=[{"file": "a.pth", "sha256": "0", "folder": secret}])  # fmt: skip
    content = checkpoint.load(file)
    content["genesis"]["plans"] |= {"genesis": {"weights": secret}, "note": secret}
    checkpoint.save(content, file)
    export_hub(file, tmp_path / "out")
    plan = json.loads((tmp_path / "out" / "adaptation_plan.json").read_text())
    assert plan["pretrain_num_input_channels"] == 1  # safetensors gives names in another order: the decoder first
    everything = "".join(path.read_bytes().decode("latin-1") for path in (tmp_path / "out").iterdir())
    assert "Mueller" not in everything
    assert "scan.nii.gz" in (tmp_path / "out" / "README.md").read_text()
    assert torch.load(tmp_path / "out" / "checkpoint_final.pth", weights_only=True).keys() == {
        *("network_weights", "genesis", "nnssl_adaptation_plan", "citations", "trainer_name")
    }
    assert json.loads((tmp_path / "out" / "config.json").read_text())["architecture"] == "PlainConvUNet"


@pytest.mark.parametrize(
    "changes",
    [{"data": 7}, {"lineage": "none"}, {"lineage": ["a"]}, {"training": [1]}, {"citations": 7}, {"software": "x"},
     {"normalization": [], "method": {"a": [1]}}, {"spacing": "far"}, {"options": {"a": "|" * 10**5}}],
)  # fmt: skip
def test_a_record_of_odd_types_is_written_or_named(tmp_path, changes):
    said = ""
    try:
        export_hub(saved(tmp_path, **changes), tmp_path / "out")
    except GenesisError as error:
        said = str(error)
    assert ("damaged" in said) != (tmp_path / "out").is_dir()


def test_files_that_are_no_checkpoint(tmp_path):
    (tmp_path / "cut.pth").write_bytes(saved(tmp_path).read_bytes()[:3000])
    with pytest.raises(GenesisError, match="damaged, truncated"):
        export_hub(tmp_path / "cut.pth", tmp_path / "out")
    with pytest.raises(GenesisError, match=r"expected a folder with checkpoint_final.pth"):
        export_hub(tmp_path, tmp_path / "out")
    (tmp_path / "a file").touch()
    with pytest.raises(GenesisError, match="isn't an empty folder"):
        export_hub(saved(tmp_path), tmp_path / "a file")


def test_citations_in_nnssls_shape():
    found = nnssl_citations([CITATIONS[1], "Somebody (2026)", CITATIONS[1]])
    assert found == [
        {"type": "Framework", "name": "nnU-Net", "apa_citations": [CITATIONS[1]]},
        {"type": "Pretrained Weights", "name": "these weights and those that they come from",
         "apa_citations": ["Somebody (2026)"]},
    ]  # fmt: skip
