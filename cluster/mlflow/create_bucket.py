"""Wait until the object store answers, then create the bucket for MLflow's files unless it exists.

    python cluster/mlflow/create_bucket.py

Reads MLFLOW_ARTIFACTS_DESTINATION (s3://BUCKET), MLFLOW_S3_ENDPOINT_URL and the AWS_ variables, as the server does.
"""

import os
import sys
import time
from urllib.parse import urlsplit

import boto3
from botocore.exceptions import BotoCoreError, ClientError, ConnectionError, HTTPClientError

WAIT_S = 120.0  # for the object store to start


def main() -> None:
    bucket = urlsplit(os.environ.get("MLFLOW_ARTIFACTS_DESTINATION", "")).netloc
    if not bucket:
        sys.exit("error: MLFLOW_ARTIFACTS_DESTINATION names no bucket: set it to s3://BUCKET")
    store = boto3.client("s3", endpoint_url=os.environ.get("MLFLOW_S3_ENDPOINT_URL"))
    deadline = time.monotonic() + WAIT_S
    while True:
        try:
            if bucket not in (entry["Name"] for entry in store.list_buckets()["Buckets"]):
                store.create_bucket(Bucket=bucket)
            print(f"bucket {bucket} exists")
            return
        except (BotoCoreError, ClientError) as error:
            if not isinstance(error, (ConnectionError, HTTPClientError)) or time.monotonic() > deadline:
                reason = " ".join(str(error).split())
                sys.exit(f"error: {store.meta.endpoint_url}: {reason}: check the address, the keys and the bucket")
        time.sleep(2)


if __name__ == "__main__":
    main()
