"""Credentials in addresses."""

import pytest

from emage.utils.redact import redact


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("s3://AKIA:secret@bucket/table.parquet", "s3://***@bucket/table.parquet"),
        ("s3://AKIA:sec/ret+with/slashes@bucket/t", "s3://***@bucket/t"),
        ("postgresql://user:word@host:5432/mlflow", "postgresql://***@host:5432/mlflow"),
        ("https://token@host/", "https://***@host/"),
        ("a: s3://k:s@b/1\nb: s3://k:s@b/2", "a: s3://***@b/1\nb: s3://***@b/2"),
        ("s3://bucket/table@2.parquet", "s3://bucket/table@2.parquet"),
        ("http://127.0.0.1:5000", "http://127.0.0.1:5000"),
        ("user@host", "user@host"),
    ],
)
def test_secrets_are_not_shown(text, shown):
    assert redact(text) == shown
