"""The files of a URL table: which ones, in which order."""

from url_tables import ROWS, read_pairs, write_csv, write_parquet

from emage.config import SourceConfig
from emage.data.ingest import url_table


def test_a_folder_is_read_in_the_order_of_names(tmp_path):
    folder = tmp_path / "part" / "deep"
    folder.mkdir(parents=True)
    write_parquet(tmp_path / "part" / "1.parquet", ROWS[3:])
    write_csv(tmp_path / "part" / "0.csv", [("url", "caption"), *ROWS[:1]])
    write_parquet(folder / "0.parquet", ROWS[1:3])
    (tmp_path / "part" / "_SUCCESS.csv").write_text("")
    source = SourceConfig(table=str(tmp_path / "part"))
    assert read_pairs(source) == [ROWS[0], *ROWS[3:], *ROWS[1:3]]
    assert read_pairs(SourceConfig(table=str(tmp_path / "part"), format="csv")) == ROWS[:1]
    assert [name for name, _ in url_table.list_file_sizes(source)] == ["0.csv", "1.parquet", "0.parquet"]
