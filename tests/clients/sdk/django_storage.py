"""django-storages on its default settings: what a Django site does with uploads and with its static files."""

from __future__ import annotations

import os
import urllib.request

from django.conf import settings

BUCKET = os.environ["BUCKET"]
OPTIONS = {"bucket_name": BUCKET, "endpoint_url": os.environ["AWS_ENDPOINT_URL"], "addressing_style": "path"}
settings.configure(
    STORAGES={
        "default": {"BACKEND": "storages.backends.s3.S3Storage", "OPTIONS": OPTIONS},
        "staticfiles": {"BACKEND": "storages.backends.s3.S3ManifestStaticStorage", "OPTIONS": OPTIONS},
    },
    STATIC_URL="/static/",
)

from django.core.files.base import ContentFile  # noqa: E402 - Django wants its settings first
from django.core.files.storage import storages  # noqa: E402

media = storages["default"]
name = media.save("dj/ünï photo.jpg", ContentFile(b"jpeg"))
again = media.save("dj/ünï photo.jpg", ContentFile(b"jpeg" * 1000))  # by default it takes the place of the first
assert media.exists(name)
assert media.size(name) == 4000
with media.open(name) as file:
    assert file.read() == b"jpeg" * 1000
assert urllib.request.urlopen(media.url(name)).read() == b"jpeg" * 1000  # a presigned URL
assert media.get_modified_time(name) is not None
folders, files = media.listdir("dj")
assert (folders, files, again) == ([], ["ünï photo.jpg"], name)
with media.open("dj/written.txt", "w") as file:
    file.write("written in place")
with media.open("dj/written.txt") as file:
    assert file.read() == b"written in place"
static = storages["staticfiles"]
static.save("dj-static/site.css", ContentFile(b"body{}"))
assert static.exists("dj-static/site.css")
for each in (name, "dj/written.txt", "dj-static/site.css"):
    media.delete(each)
assert not media.exists(name)
print("passed")
