#!/bin/sh
# publish.sh: make the bucket equal to _site/. The key comes from the environment, as `aws` reads it.
set -eu
cd "$(dirname "$0")"
aws --endpoint-url http://127.0.0.1:3900 \
    s3 sync _site/ s3://my-site/ --delete
