"""The table of image formats in the documents names every format and every drop reason of an image."""

from pathlib import Path

from emage.data.images import file_kinds

PAGE = Path(__file__).parents[3] / "docs" / "file_formats.md"


def test_the_documents_list_every_format_and_whether_it_is_taken():
    section = PAGE.read_text().split("### Images\n", 1)[1].split("\n## ", 1)[0]
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in section.splitlines() if line[:1] == "|"]
    taken = ", ".join(row[0] for row in rows if row[1] == "yes").split(", ")
    assert sorted(taken) == sorted(format.name for format in file_kinds.DECODED.values())
    refused = " ".join(row[2] for row in rows)
    reasons = [*(f"format_{kind}" for kind in file_kinds.REFUSED), file_kinds.WEB_PAGE, "not_an_image", "decode_error"]
    assert [reason for reason in reasons if f"`{reason}`" not in refused] == []
