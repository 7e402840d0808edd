"""Pickles that would run code: every gadget in every published format is rejected in one line, and nothing runs.

Gadgets are written as opcodes, because pickle itself would not write most of them. A test lets the plain unpickler run
them, which shows that they work.
"""

import io
import os
import pickle
import struct
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from published_files import lightning, zipped

from emage import tokenizers
from emage.utils.untrusted.safe_pickle import PlaceholderClass


def text(value: str) -> bytes:
    return b"X" + struct.pack("<I", len(value)) + value.encode()


def reduce(name: str, *args: bytes) -> bytes:
    """Return opcodes that call "module name" with arguments, which are opcodes as well."""
    return b"c" + name.replace(" ", "\n").encode() + b"\n(" + b"".join(args) + b"tR"


SYSTEM = b"cposix\nsystem\n"
MODULE = b"cdall_e.encoder\nEncoder\n"

# Each leaves a file called `ran` in the working folder if it runs.
GADGETS = {
    "reduce": reduce("posix system", text("touch ran")),
    "os by name": reduce("os system", text("touch ran")),
    "eval": reduce("__builtin__ eval", text("open('ran', 'w')")),
    "getattr": reduce("__builtin__ getattr", reduce("__builtin__ __import__", text("os")), text("system"))
    + b"("
    + text("touch ran")
    + b"tR",
    "partial": reduce("functools partial", SYSTEM, text("touch ran")) + b"(tR",
    "partial, filled in later": reduce("functools partial", b"c__builtin__\nlen\n")
    + (b"(" + SYSTEM + b"(" + text("touch ran") + b"t}Ntb(tR"),
    "setstate": b"ctypes\nSimpleNamespace\n)\x81}" + text("__setstate__") + SYSTEM + b"sb" + text("touch ran") + b"b",
    "instance": b"(" + text("touch ran") + b"iposix\nsystem\n",
    "dotted name": b"\x80\x04ctorch\nos.system\n(" + text("touch ran") + b"tR",
    "dotted name, by stack": b"\x80\x04" + text("torch") + text("os.system") + b"\x93(" + text("touch ran") + b"tR",
    "import": b"cruns_when_imported\nanything\n",
}
# These look like allowed content. The plain unpickler cannot run them, because package dall_e is not installed.
DISGUISED = {
    "dotted name under an allowed one": b"\x80\x04cdall_e.utils\nos.system\n(" + text("touch ran") + b"tR",
    "setstate of a module": MODULE + b")\x81}" + text("__setstate__") + SYSTEM + b"sb" + text("touch ran") + b"b",
    "partial, of a module": reduce("functools partial", MODULE)
    + b"("
    + SYSTEM
    + b"("
    + text("touch ran")
    + b"t}Ntb(tR",
    "storage": reduce("posix systemStorage", text("touch ran")),
}


def as_torch_zip(gadget: bytes) -> bytes:
    """Return the bytes of torch's file format since 1.6, with the gadget as its pickle."""
    whole, file = io.BytesIO(), io.BytesIO()
    torch.save({"state_dict": {"weight": torch.zeros(1)}}, whole)
    with zipfile.ZipFile(whole) as source, zipfile.ZipFile(file, "w") as target:
        for name in source.namelist():
            target.writestr(name, b"\x80\x02" + gadget + b"." if name.endswith("data.pkl") else source.read(name))
    return file.getvalue()


def as_torch_legacy(gadget: bytes) -> bytes:
    """Return the bytes of torch's file format before 1.6, likewise."""
    head = [torch.serialization.MAGIC_NUMBER, torch.serialization.PROTOCOL_VERSION, {"little_endian": True}]
    body = b"\x80\x02" + gadget + b"."
    return b"".join(pickle.dumps(value, protocol=2) for value in head) + body + pickle.dumps([], protocol=2)


def as_pickle(gadget: bytes) -> bytes:
    return b"\x80\x02" + gadget + b"."


# Each writes a kind of published file and returns (its path, the tokenizer's name).
def checkpoint(content: bytes) -> tuple[Path, str]:
    Path("last.ckpt").write_bytes(content)
    return Path("last.ckpt"), "vqgan-f8-256"


def archive(content: bytes) -> tuple[Path, str]:
    Path("vq-f8.zip").write_bytes(zipped(content))
    return Path("vq-f8.zip"), "vqgan-f8-256"


def dvae_folder(content: bytes) -> tuple[Path, str]:
    Path("dvae").mkdir()
    for part in ("encoder", "decoder"):
        Path(f"dvae/{part}.pkl").write_bytes(content)
    return Path("dvae"), "dvae"


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch) -> Path:
    (tmp_path / "runs_when_imported.py").write_text("open('ran', 'w')\nanything = print\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    yield tmp_path
    sys.modules.pop("runs_when_imported", None)


@pytest.mark.parametrize("gadget", GADGETS)
def test_the_gadgets_work(gadget):
    pickle.loads(as_pickle(GADGETS[gadget]))
    assert Path("ran").exists()


@pytest.mark.parametrize("gadget", GADGETS | DISGUISED)
@pytest.mark.parametrize("form", [as_torch_zip, as_torch_legacy, as_pickle])
@pytest.mark.parametrize("place", [checkpoint, archive, dvae_folder])
def test_nothing_runs(place: Callable, form: Callable, gadget: str):
    path, name = place(form((GADGETS | DISGUISED)[gadget]))
    before = set(os.listdir())
    with pytest.raises(ValueError, match="cannot be loaded safely") as error:
        tokenizers.load(name, weights=path)
    assert "\n" not in str(error.value)
    assert set(os.listdir()) - before <= {"cache"}
    assert not list(Path("cache").rglob("*.safetensors"))


def test_the_error_names_the_rejected_function(model):
    class Hostile:
        def __reduce__(self):
            return os.system, ("touch ran",)

    Path("last.ckpt").write_bytes(lightning(model, callbacks=Hostile()))
    with pytest.raises(ValueError, match=r"\(it refers to (posix|nt)\.system\)$"):
        tokenizers.load("tiny", weights="last.ckpt")
    assert not Path("ran").exists()


# ---------------------------------------------------------------------------------------------------------------------
# Files that run nothing, and yet would do harm


@pytest.mark.parametrize("target", [MODULE, b"ctorch._utils\n_rebuild_tensor_v2\n", b"cfunctools\npartial\n"])
def test_a_file_cannot_change_what_builds_it(target):
    """If a state is given to a class or a function instead of an object, pickle would set attributes of it."""
    state = b"(N}" + text("dump_patches") + b"\x88s" + text("__doc__") + text("changed") + b"st"
    path, _ = dvae_folder(as_torch_legacy(target + state + b"b"))
    documented = torch._utils._rebuild_tensor_v2.__doc__
    with pytest.raises(ValueError, match="cannot be loaded safely"):
        tokenizers.load("dvae", weights=path)
    assert PlaceholderClass.dump_patches is False and torch._utils._rebuild_tensor_v2.__doc__ == documented


def test_a_file_cannot_write_a_patch_of_its_source():
    """Old files hold their classes' source, and torch offers to write down how it differs from the class's own."""
    module = b"(" + text("module") + MODULE + text("encoder.py") + text("class Encoder: ...") + b"tQ"
    path, _ = dvae_folder(as_torch_legacy(module + b")\x81}b"))
    before = set(os.listdir())
    with pytest.raises(ValueError, match="encoder is not a module of a dVAE"):
        tokenizers.load("dvae", weights=path)
    assert set(os.listdir()) - before <= {"cache"}


@pytest.mark.parametrize("form", [as_torch_zip, as_torch_legacy])
@pytest.mark.parametrize("child", [b"h\x00", b"N", b"}", text("encoder")])
def test_a_module_that_holds_itself_or_no_module(form, child):
    state = b"}(" + text("_parameters") + b"}" + text("_modules") + b"}" + text("blocks") + child + b"su"
    path, _ = dvae_folder(form(MODULE + b")\x81q\x00" + state + b"b"))
    with pytest.raises(ValueError, match=r"encoder\.pkl: encoder\.blocks is not a module of a dVAE"):
        tokenizers.load("dvae", weights=path)
