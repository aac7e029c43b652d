-- wrk script: Messages requests of which every fourth is answered as SSE.
--
--   BIFROST_KEY=sk-bf-... wrk -t1 -c16 -d10s --latency -s benchmarks/wrk/mixed.lua \
--     http://127.0.0.1:8080/anthropic/v1/messages
--
-- BIFROST_KEY    the virtual key (required)
-- BIFROST_EVERY  every how manieth request is streamed (4)

local key = assert(os.getenv("BIFROST_KEY"), "set BIFROST_KEY to a virtual key")
local every = tonumber(os.getenv("BIFROST_EVERY") or "4")
local count = 0

local headers = {
  ["authorization"] = "Bearer " .. key,
  ["anthropic-version"] = "2023-06-01",
  ["content-type"] = "application/json",
}

local function message(stream)
  return wrk.format("POST", nil, headers, '{"model":"claude-sonnet-4-5","max_tokens":1000,"stream":'
    .. tostring(stream) .. ',"messages":[{"role":"user","content":"Hello"}]}')
end

local whole, streamed

function init()
  whole, streamed = message(false), message(true)
end

function request()
  count = count + 1
  return count % every == 0 and streamed or whole
end
