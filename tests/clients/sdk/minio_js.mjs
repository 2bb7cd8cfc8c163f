// minio-js: put, parts, get by range, stat, lists, copies, presigned requests, a POST form's policy, removal.
import assert from "node:assert/strict";
import { createHash, randomBytes } from "node:crypto";
import { Client, CopyConditions } from "minio";

const bucket = process.env.BUCKET;
const { hostname, port } = new URL(process.env.AWS_ENDPOINT_URL);
const client = new Client({
  endPoint: hostname, port: Number(port), useSSL: false, region: process.env.AWS_DEFAULT_REGION,
  accessKey: process.env.AWS_ACCESS_KEY_ID, secretKey: process.env.AWS_SECRET_ACCESS_KEY,
});
const sha = (bytes) => createHash("sha256").update(bytes).digest("hex");
const read = async (stream) => { const all = []; for await (const piece of stream) all.push(piece); return Buffer.concat(all); };

assert.ok(await client.bucketExists(bucket));
assert.ok(!(await client.bucketExists("no-such-bucket-here")));
const small = randomBytes(33_333);
await client.putObject(bucket, "mjs/small é.bin", small, small.length, { "Content-Type": "image/gif", "X-Amz-Meta-Who": "minio-js" });
const stat = await client.statObject(bucket, "mjs/small é.bin");
assert.equal(stat.size, small.length);
assert.equal(stat.metaData["content-type"], "image/gif");
assert.equal(stat.metaData.who, "minio-js");
assert.equal(sha(await read(await client.getObject(bucket, "mjs/small é.bin"))), sha(small));
assert.equal(sha(await read(await client.getPartialObject(bucket, "mjs/small é.bin", 100, 1000))), sha(small.subarray(100, 1100)));

const large = randomBytes(70 * 2 ** 20 + 5); // above the size at which it uploads in parts
await client.putObject(bucket, "mjs/large", large, large.length);
assert.equal(sha(await read(await client.getObject(bucket, "mjs/large"))), sha(large));

await client.copyObject(bucket, "mjs/copy", `/${bucket}/mjs/large`, new CopyConditions());
assert.equal((await client.statObject(bucket, "mjs/copy")).size, large.length);

const names = [];
for await (const each of client.listObjectsV2(bucket, "mjs/", true)) names.push(each.name);
assert.deepEqual(names, ["mjs/copy", "mjs/large", "mjs/small é.bin"]);

const url = await client.presignedGetObject(bucket, "mjs/small é.bin", 60);
assert.equal(sha(Buffer.from(await (await fetch(url)).arrayBuffer())), sha(small));
const putUrl = await client.presignedPutObject(bucket, "mjs/signed", 60);
assert.equal((await fetch(putUrl, { method: "PUT", body: "by URL" })).status, 200);

const policy = client.newPostPolicy();
policy.setBucket(bucket);
policy.setKey("mjs/form");
policy.setExpires(new Date(Date.now() + 60_000));
policy.setContentLengthRange(1, 1024);
policy.setContentType("text/plain");
const { postURL, formData } = await client.presignedPostPolicy(policy);
const form = new FormData();
for (const [name, value] of Object.entries(formData)) form.set(name, value);
form.set("file", new Blob(["by form"], { type: "text/plain" }), "form.txt");
const posted = await fetch(postURL, { method: "POST", body: form });
assert.equal(posted.status, 204, await posted.text());
assert.equal((await read(await client.getObject(bucket, "mjs/form"))).toString(), "by form");

await client.removeObjects(bucket, [...names, "mjs/signed", "mjs/form"]);
await assert.rejects(client.statObject(bucket, "mjs/form"), { code: "NotFound" });
console.log("passed");
