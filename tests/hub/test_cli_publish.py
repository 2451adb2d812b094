"""`mera publish --dry-run`: what would go and what stays, without any network; and what is refused."""

import json
import shutil

import pytest
from cli.command import mera
from publishing_cases import edit_json
from tiny import save_base

from mera_hf.app.space import space_files
from mera_hf.data.prepare import prepare
from mera_hf.hub import model_card as card_module
from mera_hf.hub.publishing import plan_model, plan_space


@pytest.fixture(autouse=True)
def no_network(monkeypatch):
    """A connection to anywhere fails the test."""
    import socket

    def connect(*arguments):
        raise AssertionError(f"a connection to {arguments}")

    monkeypatch.setattr(socket.socket, "connect", connect)


@pytest.fixture
def dry(tmp_path, monkeypatch):
    """`dry(line)` runs `mera publish` without publishing; exit status, output and errors."""
    monkeypatch.chdir(tmp_path)

    def publish(line: str, *more: str):
        run = mera("publish", *line.split(), *more, "--dry-run")
        return run.status, run.out, run.err

    return publish


def listed(out: str) -> dict[str, int]:
    """The files of a dry run with their sizes."""
    rows = (line.split() for line in out.split("stays here")[0].splitlines() if line.startswith("   "))
    return {name: int(size.replace(",", "")) for size, name in rows}


def staying(out: str) -> dict[str, str]:
    _, _, rest = out.partition("stays here\n")
    rows = (line.strip().split("  ", 1) for line in rest.splitlines() if line.startswith("  "))
    return {name: reason.strip() for name, reason in rows}


def test_every_file_is_listed_with_its_size(trained, dry):
    run = trained / "run"
    for name in (
        "checkpoints/checkpoint-5/optimizer.pt",
        "runs/events.out.tfevents.1",
        "training_args.bin",
        "notes.csv",
    ):
        (run / name).parent.mkdir(parents=True, exist_ok=True)
        (run / name).write_text("x")
    for name in ("report.html", "rankings.parquet", "table.md"):
        (run / "evaluation" / name).write_text("x")
    (run / "README.md").write_text("of the trainer")
    status, out, err = dry("trained/run --repo clinic/mera --public")
    assert status == 0 and err == ""
    assert out.splitlines()[0].startswith("model clinic/mera, public: ")
    assert out.splitlines()[-1] == "nothing was published: --dry-run"
    files = listed(out)
    plan = plan_model(run, "clinic/mera", "public")
    assert files == plan.sizes() and f"{len(files)} files, {sum(files.values()):,} bytes" in out
    assert files["model.safetensors"] == (run / "model.safetensors").stat().st_size
    assert files["README.md"] == len(plan.files["README.md"]) != len("of the trainer")
    code = {f"{name}_mera.py" for name in ("attention", "configuration", "explanation", "modeling", "timeline")}
    assert code | {"config.json", "tokenizer.json", "metrics.json", "training.json"} <= files.keys()
    assert json.loads(plan.files["config.json"])["auto_map"]["AutoModel"] == "modeling_mera.MeraForDiagnosis"
    stays = staying(out)
    assert stays.keys() == {
        *("README.md", "adapter/", "checkpoints/", "runs/", "training_args.bin", "notes.csv"),
        *("evaluation/report.html", "evaluation/rankings.parquet", "evaluation/table.md"),
    }
    assert "optimizer" in stays["checkpoints/"] and "identifiers" in stays["evaluation/rankings.parquet"]
    assert "example patient" in stays["evaluation/report.html"] and "not on the list" in stays["notes.csv"]


def test_a_dataset_is_listed_too(prepared, dry):
    (prepared / "raw.csv").write_text("x")
    status, out, _ = dry("prepared --repo clinic/visits --public")
    assert status == 0 and out.startswith("dataset clinic/visits, public: ")
    files = listed(out)
    assert files.keys() == {
        *("README.md", "LICENSE", "codes.json", "prepare.json"),
        *(f"data/{name}.parquet" for name in ("train", "validation", "test")),
    }
    assert files["data/train.parquet"] == (prepared / "data" / "train.parquet").stat().st_size
    assert staying(out) == {"raw.csv": "not on the list of what is published"}


def test_a_memorized_checkpoint_may_go_to_everyone(trained, dry):
    status, out, _ = dry("trained/base --repo clinic/base --public")
    assert status == 0 and "metrics.json" not in listed(out)
    status, out, _ = dry("trained/base --repo clinic/base --public", "--agreement", "X")
    assert status == 0 and "note: `--agreement` is not needed" in out


def test_credentialed_weights_through_the_command(mimic, dry):
    agreement = ("--agreement", "PhysioNet Credentialed Health Data License 1.5.0")
    for line, more, words in (
        ("--public", agreement, "it is not published for everyone"),
        ("", (), "If it lets you, name it: `--agreement"),
        ("--gated", ("--agreement", "mine"), "but `--agreement` is 'mine'"),
    ):
        status, out, err = dry(f"trained/run --repo clinic/mera {line}", *more)
        assert status == 2 and out == "" and len(err.splitlines()) == 1 and words in err
    for line, visibility in (("", "private"), ("--gated", "gated")):
        status, out, _ = dry(f"trained/run --repo clinic/mera {line}", *agreement)
        assert status == 0 and out.startswith(f"model clinic/mera, {visibility}: ")
    edit_json(mimic / "config.json", provenance=None)
    status, _, err = dry("trained/run --repo clinic/mera")
    assert status == 2 and "does not say whose patients are in it" in err
    plan = plan_model(mimic, "clinic/mera", agreement="Hospital A")
    assert json.loads(plan.files["config.json"])["provenance"]["agreement"] == "Hospital A"


def test_credentialed_rows_stay(prepared, dry):
    edit_json(prepared / "prepare.json", source="mimic4", credentialed=True, license="PhysioNet 1.5.0", agreement="A")
    for line in ("", "--gated"):
        status, out, err = dry(f"prepared --repo clinic/visits {line}")
        assert (
            status == 2 and out == "" and "dataset of mimic4 is not published, not even in a private repository" in err
        )


def test_the_open_demo_of_mimic_may_go(request, tmp_path, dry):
    source = request.config.rootpath / "tests" / "fixtures" / "mimic4_demo"
    prepare("mimic4", source, tmp_path / "demo", sample=20)
    status, out, _ = dry("demo --repo clinic/demo --public")
    assert status == 0 and "LICENSE" in listed(out)


def test_paths_of_this_machine_do_not_go(trained, dry, monkeypatch):
    run = trained / "run"
    edit_json(run / "config.json", _name_or_path="/home/ann/base")
    edit_json(run / "training.json", data="/home/ann/data/x", run={"folder": "C:\\Users\\ann"})
    status, out, _ = dry("trained/run --repo clinic/mera")
    assert status == 0
    assert "note: config.json: without _name_or_path, a path of this machine" in out
    assert "note: training.json: without data, run.folder, a path of this machine" in out
    plan = plan_model(run, "clinic/mera")
    for name, file in plan.files.items():
        content = file if isinstance(file, bytes) else file.read_bytes()
        assert b"/home/ann" not in content and b"Users" not in content, name
        assert str(trained).encode() not in content, name
    assert "/home/ann" in (run / "config.json").read_text(), "the checkpoint itself is left alone"

    edit_json(run / "training.json", note="started in /home/ann/runs")
    status, _, err = dry("trained/run --repo clinic/mera")
    assert status == 2 and "training.json, line" in err and "'/home/ann/runs'" in err
    edit_json(run / "training.json", note="")
    monkeypatch.setattr(card_module, "model_card", lambda *arguments: "# Card\n\nfrom /home/ann/base")
    status, _, err = dry("trained/run --repo clinic/mera")
    assert status == 2 and "README.md, line 3 names a path of this machine, '/home/ann/base'" in err


def test_an_adapter_needs_a_base_that_others_can_find(trained, dry):
    for line, words in (
        ("trained/run --adapter --repo clinic/a", "the base of this adapter is a folder on this machine"),
        ("trained/run --adapter --base trained/base --repo clinic/a", "is a folder on this machine"),
        ("trained/base --adapter --repo clinic/a", "holds no adapter"),
        ("trained/run --base clinic/b --repo clinic/a", "`--base` names the base of an adapter"),
    ):
        status, _, err = dry(line)
        assert status == 2 and words in err, err
    status, out, _ = dry("trained/run --adapter --base clinic/base --repo clinic/a")
    assert status == 0 and "adapter_model.safetensors" in listed(out) and "model.safetensors" not in listed(out)


def test_bad_input_is_one_line(trained, prepared, tmp_path, dry):
    save_base(tmp_path / "plain", "llama")
    shutil.copytree(trained / "base", tmp_path / "bare")
    (tmp_path / "bare" / "tokenizer_config.json").unlink()
    shutil.copytree(trained / "base", tmp_path / "light")
    (tmp_path / "light" / "model.safetensors").unlink()
    (tmp_path / "empty").mkdir()
    for line, words in (
        ("nowhere --repo clinic/a", "`FOLDER` 'nowhere' is not a folder"),
        ("empty --repo clinic/a", "neither a checkpoint (it has no config.json) nor a prepared dataset"),
        ("plain --repo clinic/a", "'plain' is a llama model and not one of mera"),
        ("bare --repo clinic/a", "is not whole: it has no tokenizer_config.json"),
        ("light --repo clinic/a", "is not whole: it has no model.safetensors"),
        ("trained/base --repo a", "'a' has no owner"),
        ("trained/base --repo clinic/a/b", "'clinic/a/b' is no name of a repository"),
        ("trained/base --repo clinic/a --evaluation empty", "metrics.json"),
        ("prepared --repo clinic/a --adapter", "`--adapter` is for checkpoints"),
        ("prepared --repo clinic/a --space", "`--space` is for checkpoints"),
        ("prepared --repo clinic/a --evaluation empty", "`--evaluation` is for checkpoints"),
    ):
        status, out, err = dry(line)
        assert status == 2 and out == "" and len(err.splitlines()) == 1 and words in err, err
    (prepared / "data" / "test.parquet").write_bytes(b"")
    status, _, err = dry("prepared --repo clinic/a")
    assert status == 2 and "cannot be read" in err


def test_a_space_is_listed_beside_the_model(trained, dry):
    for line, visibility in (("", "private"), ("--gated", "private"), ("--public", "public")):
        status, out, err = dry(f"trained/run --repo clinic/mera --space {line}")
        assert status == 0 and err == "" and out.startswith("model clinic/mera, ")
        model, space = out.split("\nspace ")
        files = listed(space)
        texts = space_files("clinic/mera")
        assert files == {name: len(text.encode()) for name, text in texts.items()}
        assert space.startswith(f"clinic/mera, {visibility}: 3 files, {sum(files.values()):,} bytes")
        assert ("the Space needs the secret HF_TOKEN" in space) is (visibility == "private")
        assert "model.safetensors" in listed(model) and "app.py" not in listed(model)
        assert out.splitlines()[-1] == "nothing was published: --dry-run"


def test_a_space_that_could_not_show_the_model_is_refused(trained, dry):
    (trained / "base" / "memorization.json").write_text('{"code_to_definition": 0.9}')
    for line, words in (
        ("trained/run --space --revision v2 --repo clinic/a", "leave out `--revision`"),
        ("trained/run --adapter --base clinic/b --space --repo clinic/a", "`--space` needs a whole model"),
        ("trained/base --space --repo clinic/a", "was memorized but not trained to rank"),
    ):
        status, out, err = dry(line)
        assert status == 2 and out == "" and len(err.splitlines()) == 1 and words in err, err


def test_a_space_for_a_gated_model_is_private():
    for visibility, wanted in (("private", "private"), ("gated", "private"), ("public", "public")):
        plan = plan_space({"app.py": "print()", "x.png": b"\x89"}, "clinic/mera", visibility)
        assert (plan.kind, plan.visibility, plan.sizes()) == ("space", wanted, {"app.py": 7, "x.png": 1})
