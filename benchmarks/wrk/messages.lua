-- wrk script: Messages requests to a gateway with a virtual key.
--
--   BIFROST_KEY=sk-bf-... wrk -t1 -c16 -d10s --latency -s benchmarks/wrk/messages.lua \
--     http://127.0.0.1:8080/anthropic/v1/messages
--
-- BIFROST_KEY      the virtual key (required)
-- BIFROST_BODY     a file with the request body; without it a small one is sent
-- BIFROST_HEADERS  further headers, one "name: value" a line
-- BIFROST_RESULT   a file that gets the figures as one JSON object (microseconds)

local small = '{"model":"claude-sonnet-4-5","max_tokens":1000,'
  .. '"messages":[{"role":"user","content":"Hello"}]}'

local function read(path)
  local file = assert(io.open(path, "rb"))
  local content = file:read("*a")
  file:close()
  return content
end

local key = assert(os.getenv("BIFROST_KEY"), "set BIFROST_KEY to a virtual key")
local path = os.getenv("BIFROST_BODY")

wrk.method = "POST"
wrk.body = path and read(path) or small
wrk.headers["authorization"] = "Bearer " .. key
wrk.headers["anthropic-version"] = "2023-06-01"
wrk.headers["content-type"] = "application/json"
for name, value in string.gmatch(os.getenv("BIFROST_HEADERS") or "", "([^:\n]+):%s*([^\n]*)") do
  wrk.headers[name] = value
end

function done(summary, latency, requests)
  local result = os.getenv("BIFROST_RESULT")
  if not result then
    return
  end
  local errors = summary.errors
  local file = assert(io.open(result, "w"))
  file:write(string.format(
    '{"requests":%d,"microseconds":%d,"bad_status":%d,"broken":%d,'
      .. '"p50":%d,"p90":%d,"p99":%d,"p999":%d,"most":%d}\n',
    summary.requests, summary.duration, errors.status,
    errors.connect + errors.read + errors.write + errors.timeout,
    latency:percentile(50), latency:percentile(90), latency:percentile(99),
    latency:percentile(99.9), latency.max))
  file:close()
end
