-- Cycles through prepared requests at the least cost for the client. Knows no signature and no S3.
-- Arguments: targets file, method, host, body file or "-", nonce (number), "cycle" or "once".
--
-- A request with a body is one string, built once: head, then body. Before each use the head and eight bytes in every
-- 64 KiB of the body are overwritten in place, so that no two bodies are equal (a store that deduplicates must not
-- gain) and the only copy is the one that wrk makes itself. LuaJIT keeps strings where they are; none of these is
-- compared or used as a key afterwards.
local ffi = require("ffi")
ffi.cdef [[
  typedef struct { long s; long ns; } bench_time;
  int clock_gettime(int clock, bench_time *now);
]]
local STRIDE = 65536
local MONOTONIC = 1
local now_buffer = ffi.new("bench_time")
local threads = {}

local function now_us()
  ffi.C.clock_gettime(MONOTONIC, now_buffer)
  return tonumber(now_buffer.s) * 1e6 + tonumber(now_buffer.ns) / 1e3
end

function setup(thread)
  table.insert(threads, thread)
end

local heads, head_length = {}, 0
local whole, whole_bytes, whole_length
local nonce, once, verified = 0, false, false
calls, first_us, last_us, exhausted = 0, 0, 0, 0

local function read_all(path)
  local file = assert(io.open(path, "rb"))
  local content = file:read("*a")
  file:close()
  return content
end

function init(args)
  local body = args[4] ~= "-" and read_all(args[4]) or nil
  local tail = " HTTP/1.1\r\nHost: " .. args[3] .. "\r\n"
  if body then tail = tail .. "Content-Length: " .. #body .. "\r\n" end
  for line in io.lines(args[1]) do
    heads[#heads + 1] = args[2] .. " " .. line .. tail .. "\r\n"
  end
  nonce, once = tonumber(args[5]), args[6] == "once"
  if body then
    head_length = #heads[1]
    for i = 1, #heads do assert(#heads[i] == head_length, "request heads differ in length") end
    whole = heads[1] .. body
    whole_length = #whole
    whole_bytes = ffi.cast("uint8_t *", whole)
  end
end

local function build(index)
  if not whole then return heads[index] end
  nonce = nonce + 1
  ffi.copy(whole_bytes, heads[index], head_length)
  for at = head_length, whole_length - 8, STRIDE do
    ffi.cast("double *", whole_bytes + at)[0] = nonce
  end
  return whole
end

function request()
  if not verified then -- wrk asks once before the run to see whether it is well formed
    verified = true
    return build(1)
  end
  if exhausted == 1 then return build(#heads) end
  local now = now_us()
  if calls == 0 then first_us = now end
  calls, last_us = calls + 1, now
  if once and calls > #heads then
    exhausted = 1
    wrk.thread:stop()
    return build(#heads)
  end
  return build((calls - 1) % #heads + 1)
end

function done(summary, latency, _)
  local thread, errors = threads[1], summary.errors
  io.write(string.format(
    "BENCH calls=%d elapsed_us=%.0f p50_us=%.0f p99_us=%.0f max_us=%.0f completed=%d "
      .. "connect=%d read=%d write=%d status=%d timeout=%d\n",
    thread:get("calls"), thread:get("last_us") - thread:get("first_us"),
    latency:percentile(50), latency:percentile(99), latency.max, summary.requests,
    errors.connect, errors.read, errors.write, errors.status, errors.timeout))
end
