"""The parts of JPEG and PNG files that pixels depend on.

Many files carry more: colour profiles, texts of image generators, previews, a film behind the image. A decoder that
reads these parts fails on a large or a broken one, although every browser shows the image. They are left out before
Pillow sees the file.
"""

import re
import struct
import zlib

_PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"
_PNG_END = b"\0\0\0\0IEND\xae\x42\x60\x82"
# Bytes of tRNS by colour type: one grey, one colour, or up to one per palette entry.
_TRANSPARENCY_BYTES = {0: range(2, 3), 2: range(6, 7), 3: range(1, 257)}

# A JPEG marker with a segment behind it. Inside image data FF 00 is a byte FF; D0 to D9, 01 and FF have no segment.
_MARKER = re.compile(rb"\xff([^\x00\x01\xd0-\xd8\xff])")
_START_OF_SCAN, _END_OF_IMAGE, _COMMENT = 0xDA, 0xD9, 0xFE
_JFIF, _EXIF_OR_XMP, _ADOBE = 0xE0, 0xE1, 0xEE


def count_jpeg_scans(data: bytes, most: int) -> int:
    """Return the number of scans of a JPEG file's first image, or any number above `most` if there are more.

    If the whole file has at most `most` bytes that look like the beginning of a scan, their number is returned. Else
    bytes inside other segments, such as a preview, do not count, nor does anything behind the image.
    """
    if (at_most := data.count(b"\xff\xda")) <= most:  # much faster
        return at_most
    scans, position = 0, 0
    while scans <= most and (marker := _MARKER.search(data, position)):
        code = marker[1][0]
        if code == _END_OF_IMAGE:
            break
        scans += code == _START_OF_SCAN
        position = marker.end() + max(2, int.from_bytes(data[marker.end() : marker.end() + 2], "big"))
    return scans


def strip_jpeg(data: bytes) -> bytes:
    """Return a JPEG file without the segments in front of the image that its pixels and orientation do not need."""
    parts, position = [data[:2]], 2
    while marker := _MARKER.search(data, position):
        code, start = marker[1][0], marker.start()
        if code == _START_OF_SCAN:
            return b"".join([*parts, data[start:]])
        end = marker.end() + int.from_bytes(data[marker.end() : marker.end() + 2], "big")
        if code == _END_OF_IMAGE or end < marker.end() + 2:
            break
        if _is_needed(code, data[marker.end() + 2 : end]):
            parts.append(data[start:end])
        position = end
    return data  # no image in it: the decoder says what is wrong


def _is_needed(code: int, body: bytes) -> bool:
    if code == _JFIF:
        return body.startswith(b"JFIF\0") and len(body) >= 14
    if code == _ADOBE:  # how the colours are stored
        return body.startswith(b"Adobe") and len(body) >= 12
    return code == _EXIF_OR_XMP or not (0xE0 <= code <= 0xEF or code == _COMMENT)


def strip_png(data: bytes) -> bytes:
    """Return a PNG file with the chunks alone that pixels and orientation need, as far as they can be read."""
    parts, position, colour_type = [_PNG_SIGNATURE], len(_PNG_SIGNATURE), -1
    while position + 8 <= len(data):
        length, name = struct.unpack_from(">I4s", data, position)
        start, end = position, position + 12 + length
        chunk, position = data[start:end], end
        if name in (b"IHDR", b"PLTE", b"IDAT"):
            parts.append(chunk)
            if end > len(data):  # the file ends too early, which the decoder finds out
                return b"".join(parts)
            colour_type = chunk[17] if name == b"IHDR" and length == 13 else colour_type
        elif end > len(data) or name == b"IEND" or not name.isalpha():
            break
        elif (name == b"eXIf" or (name == b"tRNS" and length in _TRANSPARENCY_BYTES.get(colour_type, ()))) and (
            zlib.crc32(chunk[4:-4]) == int.from_bytes(chunk[-4:], "big")
        ):
            parts.append(chunk)
    return b"".join([*parts, _PNG_END])
