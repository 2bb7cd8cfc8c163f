// AWS SDK for JavaScript v3 on its default settings: put, get, ranges, lists, parts by lib-storage, copies, presigned URLs.
import assert from "node:assert/strict";
import { createHash, randomBytes } from "node:crypto";
import { Readable } from "node:stream";
import {
  CopyObjectCommand, DeleteObjectsCommand, GetObjectCommand, HeadObjectCommand, ListObjectsV2Command, PutObjectCommand,
  S3Client, paginateListObjectsV2,
} from "@aws-sdk/client-s3";
import { Upload } from "@aws-sdk/lib-storage";
import { getSignedUrl } from "@aws-sdk/s3-request-presigner";

const Bucket = process.env.BUCKET;
// endpoint and key come from the environment; of the region it knows AWS_REGION only
const client = new S3Client({ forcePathStyle: true, region: process.env.AWS_DEFAULT_REGION });
const sha = (bytes) => createHash("sha256").update(bytes).digest("hex");
const fetched = async (Key, more = {}) =>
  Buffer.from(await (await client.send(new GetObjectCommand({ Bucket, Key, ...more }))).Body.transformToByteArray());

const small = randomBytes(70_001);
await client.send(new PutObjectCommand({
  Bucket, Key: "js/ünï 1+1=2.bin", Body: small, ContentType: "image/png", Metadata: { origin: "js" },
}));
const head = await client.send(new HeadObjectCommand({ Bucket, Key: "js/ünï 1+1=2.bin", ChecksumMode: "ENABLED" }));
assert.equal(head.ContentLength, small.length);
assert.equal(head.ContentType, "image/png");
assert.deepEqual(head.Metadata, { origin: "js" });
assert.ok(head.ChecksumCRC32, "the SDK's default checksum is kept");
assert.equal(sha(await fetched("js/ünï 1+1=2.bin")), sha(small));
assert.equal(sha(await fetched("js/ünï 1+1=2.bin", { Range: "bytes=1000-1999" })), sha(small.subarray(1000, 2000)));

// a stream of unknown length goes up in parts
const large = randomBytes(12 * 2 ** 20 + 17);
const pieces = (function* () { for (let at = 0; at < large.length; at += 65_536) yield large.subarray(at, at + 65_536); })();
const upload = new Upload({
  client, params: { Bucket, Key: "js/large", Body: Readable.from(pieces) }, partSize: 5 * 2 ** 20, queueSize: 3,
});
const done = await upload.done();
assert.match(done.ETag, /-3"$/);
assert.equal(sha(await fetched("js/large")), sha(large));

await client.send(new CopyObjectCommand({ Bucket, Key: "js/copy", CopySource: `${Bucket}/js/large` }));
assert.equal(sha(await fetched("js/copy")), sha(large));

await assert.rejects(
  client.send(new PutObjectCommand({ Bucket, Key: "js/copy", Body: "x", IfNoneMatch: "*" })), { name: "PreconditionFailed" });
await assert.rejects(client.send(new GetObjectCommand({ Bucket, Key: "js/none" })), { name: "NoSuchKey" });

const keys = [];
for await (const page of paginateListObjectsV2({ client, pageSize: 2 }, { Bucket, Prefix: "js/" })) {
  keys.push(...page.Contents.map((each) => each.Key));
}
assert.deepEqual(keys, ["js/copy", "js/large", "js/ünï 1+1=2.bin"]);
const folders = await client.send(new ListObjectsV2Command({ Bucket, Delimiter: "/" }));
assert.ok(folders.CommonPrefixes.some((each) => each.Prefix === "js/"));

const putUrl = await getSignedUrl(client, new PutObjectCommand({ Bucket, Key: "js/signed", ContentType: "text/plain" }), { expiresIn: 60 });
const put = await fetch(putUrl, { method: "PUT", body: "by URL", headers: { "content-type": "text/plain" } });
assert.equal(put.status, 200, await put.text());
const getUrl = await getSignedUrl(client, new GetObjectCommand({ Bucket, Key: "js/signed" }), { expiresIn: 60 });
const got = await fetch(getUrl);
assert.equal(await got.text(), "by URL");
assert.equal((await fetch(getUrl.replace(/.$/, (last) => (last === "0" ? "1" : "0")))).status, 403);

const gone = await client.send(new DeleteObjectsCommand({
  Bucket, Delete: { Objects: [...keys, "js/signed"].map((Key) => ({ Key })) },
}));
assert.equal(gone.Deleted.length, 4);
assert.equal((await client.send(new ListObjectsV2Command({ Bucket, Prefix: "js/" }))).KeyCount, 0);
console.log("passed");
