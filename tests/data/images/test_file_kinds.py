"""Files are told apart by their first bytes: what encoders write, and what servers send instead of images."""

import pytest
from PIL import Image
from web import encode

from emage.data.images import file_kinds

IMAGE = Image.new("RGB", (64, 64))


@pytest.mark.parametrize(
    ("written_as", "kind"),
    [
        ("JPEG", "jpeg"),
        ("MPO", "jpeg"),
        ("PNG", "png"),
        ("WEBP", "webp"),
        ("AVIF", "avif"),
        ("GIF", "gif"),
        ("BMP", "bmp"),
        ("TIFF", "tiff"),
        ("ICO", "ico"),
        ("JPEG2000", "jpeg2000"),
        ("PPM", "pnm"),
        ("ICNS", "icns"),
        ("EPS", "pdf"),
        ("PDF", "pdf"),
        ("QOI", "qoi"),
    ],
)
def test_what_pillow_writes(written_as: str, kind: str) -> None:
    assert file_kinds.identify(encode(IMAGE, written_as)) == kind
    assert (kind in file_kinds.DECODED) != (kind in file_kinds.REFUSED)


def test_heic():
    pytest.importorskip("pillow_heif").register_heif_opener()
    assert file_kinds.identify(encode(IMAGE, "HEIF")) == "heic"


@pytest.mark.parametrize(
    "page",
    [
        b"<!DOCTYPE html><html lang=en>",
        b"\xef\xbb\xbf \r\n<!doctype HTML>",
        b"<HTML>",
        b"<!-- saved -->\n<!-- twice --><html>",
        b'<?xml version="1.0"?><!DOCTYPE html PUBLIC "-//W3C//DTD XHTML 1.0"><html xmlns="x">',
        b"<head><title>404</title>",
        b"<script>location = '/'</script>",
        b"<!DOCTYPE html><body><svg></svg>",
    ],
)
def test_web_pages(page: bytes) -> None:
    assert file_kinds.identify(page) == file_kinds.WEB_PAGE


@pytest.mark.parametrize(
    ("data", "kind"),
    [
        (b"<svg xmlns='x'>", "svg"),
        (b'<?xml version="1.0"?>\n<!-- drawn by hand -->\n<svg>', "svg"),
        (b'<!DOCTYPE svg PUBLIC "-//W3C//DTD SVG 1.1//EN"><svg>', "svg"),
        (b"\0\0\0\x20ftypisom\0\0\x02\0isomiso2avc1mp41", "video"),
        (b"\0\0\0\x1cftypmif1\0\0\0\0mif1avifmiaf", "avif"),
        (b"\0\0\0\x18ftypmif1\0\0\0\0mif1heic", "heic"),
        (b"RIFF\0\0\0\0AVI LIST", "video"),
        (b"\xff\x0a\xfa\x1f", "jxl"),
        (b'{"error": "not found"}', None),
        (b"<?xml version='1.0'?><Error><Code>AccessDenied</Code></Error>", None),
        (b"BM is how this text begins, and no image", None),
        (b"Not found", None),
        (b"RIFF", None),
        (b"\0" * 100, None),
        (b"", None),
    ],
)
def test_other_files(data: bytes, kind: str | None) -> None:
    assert file_kinds.identify(data) == kind
