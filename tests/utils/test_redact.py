"""Secrets in addresses."""

import pytest

from emage.utils.redact import redact, redact_settings

USER_INFO = [
    ("s3://AKIA:secret@bucket/table.parquet", "s3://***@bucket/table.parquet"),
    ("s3://AKIA:sec/ret+with/slashes@bucket/t", "s3://***@bucket/t"),
    ("s3://AKIA:123/ret@bucket/t", "s3://***@bucket/t"),
    ("postgresql://user:word@host:5432/mlflow", "postgresql://***@host:5432/mlflow"),
    ("postgresql://user:wo@rd@host:5432/mlflow", "postgresql://***@host:5432/mlflow"),
    ("postgresql://user:two words@host/mlflow", "postgresql://***@host/mlflow"),
    ("mysql+pymysql://user:w?o#r/d@host/mlflow", "mysql+pymysql://***@host/mlflow"),
    ("redis://:word@host/0", "redis://***@host/0"),
    ("https://token@host/", "https://***@host/"),
    ("a: s3://k:s@b/1\nb: s3://k:s@b/2", "a: s3://***@b/1\nb: s3://***@b/2"),
    ("s3://k:s/s@b/1 and s3://k:s/s@b/2", "s3://***@b/1 and s3://***@b/2"),
    ("s3://k:s@bucket/table@2.parquet", "s3://***@bucket/table@2.parquet"),
    ("s3://bucket/table@2.parquet", "s3://bucket/table@2.parquet"),
    ("http://127.0.0.1:5000", "http://127.0.0.1:5000"),
    ("http://host:5000/a@b", "http://host:5000/a@b"),
    ("http://host:5000 does not answer, ask me@host", "http://host:5000 does not answer, ask me@host"),
    ("user@host", "user@host"),
    ("sqlite:////home/me@work/runs/mlflow.db", "sqlite:////home/me@work/runs/mlflow.db"),
]


@pytest.mark.parametrize(("text", "shown"), USER_INFO)
def test_user_info_is_not_shown(text, shown):
    assert redact(text) == shown
    assert redact_settings(text) == shown


@pytest.mark.parametrize(
    "name",
    [
        *("password", "passwd", "pwd", "sslpassword", "sig", "Signature", "secret_key", "access_key", "session_token"),
        *("token", "access_token", "X-Amz-Signature", "X-Amz-Credential", "X-Amz-Security-Token", "account_key"),
        *("X-Goog-Signature", "key", "api_key", "apikey", "client_secret", "auth", "PASSWORD"),
    ],
)
@pytest.mark.parametrize("before", ["?", "?page=2&", "#", "?page=2;"])
def test_values_of_secret_parameters_are_not_shown(name, before):
    shown = f"https://host/table.csv{before}{name}=***"
    assert redact(f"https://host/table.csv{before}{name}=a1/b+2==") == shown
    assert redact(f"{shown[:-3]}a1&last=1 is missing") == f"{shown}&last=1 is missing"
    assert redact_settings(f"{shown[:-3]}two words&last=1") == f"{shown}&last=1"


def test_other_parameters_are_shown():
    address = "s3://bucket/t?region=eu&scheme=http&endpoint_override=127.0.0.1:9000&retry_limit_seconds=30#part=2"
    assert redact(address) == redact_settings(address) == address


def test_a_connection_string_of_azure():
    text = "DefaultEndpointsProtocol=https;AccountName=me;AccountKey=a1/b+2==;EndpointSuffix=core.windows.net"
    assert redact(text) == text.replace("a1/b+2==", "***")


def test_nested_settings():
    address, shown = "s3://k:two words@b/1", "s3://***@b/1"
    settings = {"source": {"table": address, "rows": 3}, "more": [{"table": address}], "lists": (address, None)}
    assert redact_settings(settings) == {
        "source": {"table": shown, "rows": 3},
        "more": [{"table": shown}],
        "lists": [shown, None],
    }
    assert settings["source"]["table"] == address


def test_a_long_text_takes_no_time():
    for text in ("http://a:b" * 20_000, "?key" * 20_000, "?" + "key" * 20_000, "a" * 100_000, "s3://" + "a:" * 50_000):
        assert redact(text) == redact_settings(text) == text
