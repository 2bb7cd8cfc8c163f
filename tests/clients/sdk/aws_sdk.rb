# The AWS SDK for Ruby on its default settings: objects, parts, copies, lists, presigned requests, conditions.
require "aws-sdk-s3"
require "digest"
require "net/http"
require "securerandom"

bucket = ENV.fetch("BUCKET")
# this version reads the endpoint from its options alone
client = Aws::S3::Client.new(endpoint: ENV.fetch("AWS_ENDPOINT_URL"), force_path_style: true)
resource = Aws::S3::Resource.new(client: client)

def check(holds, what)
  raise what unless holds
end

small = SecureRandom.bytes(44_444)
client.put_object(bucket: bucket, key: "rb/ünï.bin", body: small, content_type: "image/png", metadata: { "who" => "ruby" })
head = client.head_object(bucket: bucket, key: "rb/ünï.bin")
check(head.content_length == small.bytesize && head.metadata == { "who" => "ruby" }, "head: #{head.to_h}")
check(client.get_object(bucket: bucket, key: "rb/ünï.bin").body.read.b == small, "get")
part = client.get_object(bucket: bucket, key: "rb/ünï.bin", range: "bytes=10-19").body.read.b
check(part == small[10..19], "range")

large = SecureRandom.bytes(16 * 2**20 + 3)
path = File.join(ENV.fetch("HOME"), "large.bin")
File.binwrite(path, large)
object = resource.bucket(bucket).object("rb/large")
object.upload_file(path, multipart_threshold: 8 * 2**20)
check(object.etag.include?("-"), "no parts: #{object.etag}")
object.download_file("#{path}.back")
check(Digest::SHA256.file("#{path}.back").hexdigest == Digest::SHA256.hexdigest(large), "parts")
resource.bucket(bucket).object("rb/copy").copy_from(object, multipart_copy: true)
check(resource.bucket(bucket).object("rb/copy").size == large.bytesize, "copy")

keys = client.list_objects_v2(bucket: bucket, prefix: "rb/", max_keys: 2).flat_map { |page| page.contents.map(&:key) }
check(keys == ["rb/copy", "rb/large", "rb/ünï.bin"], "list: #{keys}")

url = URI(object.presigned_url(:get, expires_in: 60))
check(Net::HTTP.get(url).bytesize == large.bytesize, "presigned get")
put = URI(resource.bucket(bucket).object("rb/signed").presigned_url(:put, expires_in: 60))
answer = Net::HTTP.start(put.host, put.port) { |http| http.send_request("PUT", put.request_uri, "by URL") }
check(answer.code == "200", "presigned put: #{answer.code} #{answer.body}")

post = resource.bucket(bucket).presigned_post(key: "rb/form", content_length_range: 1..100)
form = post.fields.map { |name, value| [name, value] } + [["file", "by form", { filename: "form.txt" }]]
uri = URI(post.url)
request = Net::HTTP::Post.new(uri)
request.set_form(form, "multipart/form-data")
answer = Net::HTTP.start(uri.host, uri.port) { |http| http.request(request) }
check(answer.code == "204", "form: #{answer.code} #{answer.body}")
check(client.get_object(bucket: bucket, key: "rb/form").body.read == "by form", "form's bytes")

begin
  client.get_object(bucket: bucket, key: "rb/none")
  raise "a missing key was served"
rescue Aws::S3::Errors::NoSuchKey
  # as it should be
end
resource.bucket(bucket).objects(prefix: "rb/").batch_delete!
check(resource.bucket(bucket).objects(prefix: "rb/").none?, "delete")
puts "passed"
