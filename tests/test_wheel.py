"""The wheel works without the checkout: built, installed into an empty environment and run in an empty folder."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import sysconfig
import zipfile
from pathlib import Path

import pytest

pytest.importorskip("build")
pytest.importorskip("hatchling")

ROOT = Path(__file__).resolve().parents[1]
SPACES = ("custom_example", "joint", "lowrank", "prune", "quantize", "student")


def run(*command: str | Path, cwd: Path) -> str:
    """Runs a command without this environment's own paths; returns what it printed."""
    kept = {
        key: value for key, value in os.environ.items() if not key.startswith(("PYTHON", "PYTEST", "COV", "VIRTUAL"))
    }
    done = subprocess.run(
        [str(word) for word in command],
        cwd=cwd,
        env={**kept, "PYTHONUTF8": "1", "PIP_DISABLE_PIP_VERSION_CHECK": "1"},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, f"{command}: {done.stdout}\n{done.stderr}"
    return done.stdout


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    run(sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", folder, ROOT, cwd=folder)
    (built,) = folder.glob("*.whl")
    return built


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The `bin` folder of an environment with the wheel and, behind it, the packages of this one."""
    folder = tmp_path_factory.mktemp("environment")
    run(sys.executable, "-m", "venv", "--without-pip", folder, cwd=folder)
    binaries = folder / ("Scripts" if os.name == "nt" else "bin")
    python = binaries / "python"
    run(sys.executable, "-m", "pip", "--python", python, "install", "--no-deps", "--no-index", wheel, cwd=folder)
    # A .pth file is read where it lies and not where it points to, so an editable install there stays out.
    own = run(python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))", cwd=folder).strip()
    borrowed = sorted({sysconfig.get_path("purelib"), sysconfig.get_path("platlib")})
    (Path(own) / "borrowed.pth").write_text("\n".join(borrowed) + "\n", encoding="utf-8")
    return binaries


def test_the_wheel_holds_what_is_read_at_run_time_and_no_rubbish(wheel: Path) -> None:
    names = zipfile.ZipFile(wheel).namelist()
    wanted = {f"autocompress/emit/report.{ending}" for ending in ("html.j2", "css", "js")}
    wanted |= {f"autocompress/search_spaces/{file.name}" for file in (ROOT / "search_spaces").glob("*.*")}
    wanted |= {f"autocompress/hardware_profiles/{name}/profile.yaml" for name in ("jetson-nano", "local")}
    wanted.add("autocompress/hardware_profiles/local/networks.tar.xz")
    assert wanted <= set(names)
    assert any(name.endswith("licenses/LICENSE") for name in names)
    assert [name for name in names if "__pycache__" in name or not name.startswith("autocompress")] == []


def test_the_wheel_holds_every_module(wheel: Path) -> None:
    modules = {path.relative_to(ROOT).as_posix() for path in (ROOT / "autocompress").rglob("*.py")}
    assert modules <= set(zipfile.ZipFile(wheel).namelist())


def test_the_command_of_the_wheel_lists_targets(installed: Path, tmp_path: Path) -> None:
    place = run(installed / "python", "-c", "import autocompress; print(autocompress.__file__)", cwd=tmp_path).strip()
    assert installed.parent in Path(place).parents
    listed = json.loads(run(installed / "autocompress", "targets", "list", "--json", cwd=tmp_path))
    assert {"jetson-nano", "local"} <= {entry["name"] for entry in listed}
    assert (
        json.loads(run(installed / "python", "-m", "autocompress", "targets", "list", "--json", cwd=tmp_path)) == listed
    )
    assert list(tmp_path.iterdir()) == []


def test_the_wheel_finds_its_spaces_and_profiles_by_name(installed: Path, tmp_path: Path) -> None:
    code = f"""
import json
from autocompress.core.rules import load_rules
from autocompress.core.shipped import shipped_dir
from autocompress.targets.profile import load_target
places = [load_rules(name).where for name in {SPACES!r}]
print(json.dumps([*places, str(shipped_dir("hardware_profiles")), load_target("jetson-nano").profile.name]))
"""
    *places, target = json.loads(run(installed / "python", "-c", code, cwd=tmp_path))
    assert target == "jetson-nano"
    assert [place for place in places if installed.parent not in Path(place).parents] == []
