"""What is given wrongly is answered by one line and exit code 2, and nothing is written; configurations are read as written."""

from __future__ import annotations

import dataclasses
import tomllib
from pathlib import Path

import pytest
from test_campaign_engine import open_store

from backend.case import Arch, DType, MetadataMode
from backend.errors import UsageError
from fuzz.campaign.config import IDENTITY, CampaignConfig, config_lines, config_of, of_its_release, read_config
from fuzz.campaign.session import absolute, changed
from fuzz.cli import main, parser
from fuzz.spec import explanations


@pytest.mark.parametrize(
    ("argv", "told"),
    [
        (["--backend", "trt"], ["'trt'", "sglang-27188"]),
        (["--shapes", "tp3"], ["'tp3'", "tp1, tp2, tp4, tp8"]),
        (["--release", "2020-01"], ["2020-01", "2026-06"]),
        (["--cases", "0"], ["--cases", "at least 1"]),
        (["--seconds", "nan"], ["--seconds", "above 0"]),
        (["--worker-memory", "10"], ["--worker-memory", "10", "at least 256"]),
        (["--workers", "-1"], ["--workers", "at least 0"]),
        (["--corpus", "/no/such/corpus"], ["/no/such/corpus"]),
        (["--compare", "/no/such/store"], ["/no/such/store", "campaign's folder"]),
        (["--config", "/no/such.toml"], ["/no/such.toml", "give a TOML file"]),
        (["--resume"], ["no campaign there to go on with"]),
        (["--case", "7"], ["--case", "CHUNK/POSITION"]),
        (["--case", "7/1"], ["campaign's folder"]),
        (["--address", "nowhere"], ["'nowhere'", "host:port"]),
        (["--device", "tpu"], ["'tpu'"]),
    ],
)
def test_one_line_and_nothing_written(
    argv: list[str], told: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["campaign", *argv, "--out", "out"]) == 2
    printed = capsys.readouterr()
    assert printed.out == ""
    assert printed.err.startswith("aiterfuzz: ")
    assert printed.err.count("\n") == 1
    assert all(part in printed.err for part in told), printed.err
    assert not list(tmp_path.iterdir())


def test_a_cluster_that_is_not_there_is_said_at_once(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert main(["campaign", "--address", "127.0.0.1:1", "--out", str(tmp_path / "out")]) == 3
    assert "cannot be reached" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_every_field_is_explained_and_has_a_flag() -> None:
    fields = {field.name for field in dataclasses.fields(CampaignConfig)}
    assert set(explanations(CampaignConfig)) == fields
    assert fields <= set(vars(parser().parse_args(["campaign"])))
    assert set(IDENTITY) <= fields


CONFIGS = [
    CampaignConfig(),
    CampaignConfig(
        backend="direct",
        shapes=("tp2",),
        heads=(48, 80),
        archs=(Arch.GFX942,),
        q_dtype=DType.BF16,
        modes=(MetadataMode.FAKE,),
        seconds=2.5,
        expect=("F1", 'a "quoted" signature'),
        guided=False,
        verify=False,
    ),
]


@pytest.mark.parametrize("config", CONFIGS)
def test_a_printed_configuration_is_read_as_the_same(config: CampaignConfig, tmp_path: Path) -> None:
    path = tmp_path / "campaign.toml"
    path.write_text("\n".join(config_lines(config)))
    assert config_of(read_config(path)) == config


def test_flags_override_the_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "campaign.toml"
    path.write_text('backend = "vllm"\nseed = 3\nheads = [64]\n')
    assert main(["campaign", "--config", str(path), "--seed", "4", "--unguided", "--no-verify", "--print-config"]) == 0
    config = config_of(tomllib.loads(capsys.readouterr().out))
    assert (config.backend, config.seed, config.heads, config.guided, config.verify) == ("vllm", 4, (64,), False, False)


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("no toml", "not TOML"),
        ("sede = 1", "sede"),
        ('seed = "1"', "seed"),
        ("seed = -1", "at least 0"),
        ('archs = ["gfx90a"]', "gfx942, gfx950"),
        ("heads = 64", "heads"),
    ],
)
def test_a_broken_file_is_said_where_it_is_broken(text: str, told: str, tmp_path: Path) -> None:
    path = tmp_path / "campaign.toml"
    path.write_text(text)
    with pytest.raises(UsageError, match=told) as raised:
        read_config(path)
    assert "campaign.toml" in str(raised.value) or "seed" in str(raised.value)


def test_a_resumed_campaign_keeps_its_identity(tmp_path: Path) -> None:
    config = absolute(CampaignConfig(out=str(tmp_path), cases=100))
    assert changed(config, {"cases": 200, "workers": 1}, tmp_path).cases == 200
    for name, value in (("seed", 1), ("backend", "vllm"), ("chunk_cases", 7), ("guided", False), ("device", "cdna")):
        with pytest.raises(UsageError, match=name.replace("_", "-")):
            changed(config, {name: value}, tmp_path)


def test_a_folder_with_a_campaign_is_not_begun_again(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    open_store(tmp_path / "a").close()
    assert main(["campaign", "--out", str(tmp_path / "a")]) == 2
    assert "--resume" in capsys.readouterr().err


def test_what_can_never_be_met_is_not_expected(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for wrong in ("F99", "nonsense/signature"):
        assert main(["campaign", "--expect", f"F1,{wrong}", "--cases", "10", "--out", str(tmp_path / "out")]) == 2
        said = capsys.readouterr().err
        assert wrong in said
        assert "F1" in said
        assert not (tmp_path / "out").exists()


@pytest.mark.checkout
def test_a_campaign_of_a_checkout_is_of_the_release_nearest_to_it(aiter_checkout: Path) -> None:
    config = CampaignConfig(aiter=f"{aiter_checkout}@e4048607a5")
    assert of_its_release(config).releases == ("2026-08",)
    named = dataclasses.replace(config, releases=("2026-06",))
    assert of_its_release(named) == named
