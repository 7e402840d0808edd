"""The kind of a file by its first bytes: an image that is decoded, an image that is not, or something else.

A server's Content-Type and a URL's ending are often wrong; the first bytes are not.
"""

import re
from collections.abc import Callable
from typing import NamedTuple

HEAD_BYTES = 1_024  # that are looked at


class DecodedFormat(NamedTuple):
    """An image format that is decoded."""

    name: str  # for users
    pillow: str  # Pillow's name


# Kinds of images that are decoded, by the names that `identify` returns.
DECODED = {
    "jpeg": DecodedFormat("JPEG", "JPEG"),
    "png": DecodedFormat("PNG", "PNG"),
    "webp": DecodedFormat("WebP", "WEBP"),
    "avif": DecodedFormat("AVIF", "AVIF"),
    "heic": DecodedFormat("HEIC", "HEIF"),
    "gif": DecodedFormat("GIF", "GIF"),
    "bmp": DecodedFormat("BMP", "BMP"),
    "tiff": DecodedFormat("TIFF", "TIFF"),
}
# Kinds that are refused, with a drop reason of their own ("format_svg"). HEIC is, if its library is missing.
REFUSED = {
    "svg": "an SVG drawing",
    "ico": "an icon (ICO)",
    "jpeg2000": "a JPEG 2000 image",
    "jxl": "a JPEG XL image",
    "psd": "a Photoshop document",
    "pdf": "a PDF or PostScript document",
    "pnm": "a PNM image (PBM, PGM, PPM)",
    "exr": "an OpenEXR image",
    "hdr": "a Radiance HDR image",
    "qoi": "a QOI image",
    "icns": "an icon (ICNS)",
    "video": "a video",
    "heic": "a HEIC photograph, for which pillow-heif is not installed",
}
WEB_PAGE = "web_page"
DECODED_NAMES = ", ".join(format.name for format in DECODED.values())  # for messages

# Of image files. Those of a kind that is not decoded are rejected with a reason; files of other names are left out.
ENDINGS = (
    *(".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".webp", ".gif", ".bmp", ".tif", ".tiff"),
    *(".avif", ".heic", ".heif", ".jp2", ".ico"),
)

_SIGNATURES: tuple[tuple[bytes, str], ...] = (
    (b"\xff\xd8\xff", "jpeg"),
    (b"\x89PNG\r\n\x1a\n", "png"),
    (b"GIF87a", "gif"),
    (b"GIF89a", "gif"),
    (b"II*\0", "tiff"),
    (b"MM\0*", "tiff"),
    (b"II+\0", "tiff"),  # BigTIFF
    (b"MM\0+", "tiff"),
    (b"\0\0\0\x0cjP  \r\n\x87\n", "jpeg2000"),
    (b"\xff\x4f\xff\x51", "jpeg2000"),
    (b"\0\0\0\x0cJXL \r\n\x87\n", "jxl"),
    (b"\xff\x0a", "jxl"),
    (b"8BPS", "psd"),
    (b"%PDF-", "pdf"),
    (b"%!PS", "pdf"),
    (b"\xc5\xd0\xd3\xc6", "pdf"),  # PostScript with a preview
    (b"\x76\x2f\x31\x01", "exr"),
    (b"#?RADIANCE", "hdr"),
    (b"qoif", "qoi"),
    (b"icns", "icns"),
    (b"\x1a\x45\xdf\xa3", "video"),  # Matroska, WebM
    (b"OggS", "video"),
    (b"FLV\x01", "video"),
    (b"\0\0\x01\xba", "video"),  # MPEG
)
_BMP_HEADERS = (12, 16, 40, 52, 56, 64, 108, 124)  # sizes of the second header
# How a web page begins, after space and comments; what browsers take for HTML (WHATWG MIME Sniffing, 7.1).
_HTML = re.compile(
    rb"<(!doctype html|html|head|script|iframe|h1|div|font|table|a|style|title|b|body|br|p|meta|link)[\s>/]"
)
_COMMENTS = re.compile(rb"(?:\s|<!--.*?-->)*", re.DOTALL)


def identify(data: bytes) -> str | None:
    """Return a key of DECODED or REFUSED, WEB_PAGE, or None if the file is of no kind that is known here."""
    head = data[:HEAD_BYTES]
    for signature, kind in _SIGNATURES:
        if head.startswith(signature):
            return kind
    return next((kind for find in _FINDERS if (kind := find(head))), None)


def _riff(head: bytes) -> str | None:
    if head[:4] != b"RIFF":
        return None
    return {b"WEBP": "webp", b"AVI ": "video"}.get(head[8:12])


def _iso_media(head: bytes) -> str | None:
    """AVIF, HEIC and MP4 have the same container; a list of brands says which it is."""
    if head[4:8] != b"ftyp":
        return None
    end = min(int.from_bytes(head[:4], "big"), len(head))
    brands = {head[8:12]} | {head[start : start + 4] for start in range(16, end - 3, 4)}
    if brands & {b"avif", b"avis"}:
        return "avif"
    if brands & {b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1"}:
        return "heic"
    return "video"


def _bmp(head: bytes) -> str | None:
    # Many a text begins with "BM".
    return "bmp" if head[:2] == b"BM" and int.from_bytes(head[14:18], "little") in _BMP_HEADERS else None


def _ico(head: bytes) -> str | None:
    is_icon = head[:4] in (b"\0\0\x01\0", b"\0\0\x02\0") and head[4:6] != b"\0\0" and head[9:10] == b"\0"
    return "ico" if is_icon else None


def _pnm(head: bytes) -> str | None:
    return "pnm" if re.match(rb"P[1-7]\s", head) else None


def _markup(head: bytes) -> str | None:
    text = head.removeprefix(b"\xef\xbb\xbf").lower()
    text = text[_COMMENTS.match(text).end() :]  # type: ignore[union-attr]
    if _HTML.match(text):
        return WEB_PAGE
    if not text.startswith((b"<?xml", b"<!doctype", b"<svg")):
        return None
    roots = re.findall(rb"<(svg|html)[\s/>]", text)
    return {b"svg": "svg", b"html": WEB_PAGE}.get(roots[0]) if roots else None


_FINDERS: tuple[Callable[[bytes], str | None], ...] = (_riff, _iso_media, _bmp, _ico, _pnm, _markup)
