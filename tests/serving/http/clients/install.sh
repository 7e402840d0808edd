#!/bin/sh
# Installs the clients that test_other_clients.py calls, outside the project's environment:
#   tests/serving/http/clients/install.sh FOLDER     then     EMAGE_CLIENTS=FOLDER make faults ARGS="-k other_clients"
set -eu
folder=${1:?a folder for the clients}
mkdir -p "$folder"
cp "$(dirname "$0")/javascript_clients.mjs" "$folder" # node looks for modules beside the script
python3 -m venv "$folder/python"
"$folder/python/bin/pip" install --quiet openai litellm langchain-community
python3 -m venv "$folder/aiperf" # aiperf pins versions that the others do not have
"$folder/aiperf/bin/pip" install --quiet aiperf
npm install --prefix "$folder" --no-audit --no-fund --silent openai ai @ai-sdk/openai @ai-sdk/openai-compatible
