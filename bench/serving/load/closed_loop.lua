-- Closed loop for wrk: sends the prepared requests in turn and checks every answer.
--
-- usage: wrk ... -s closed_loop.lua URL -- PLAN.lua OUT.txt
-- PLAN.lua returns {path, headers, requests, expected, tolerance}; an answer counts as right when it is one
-- of `expected` byte for byte, or differs from one only in decimals, by no more than `tolerance`. wrk does
-- not say which request an answer belongs to when a thread has several connections: the open loop does, so
-- answers given to the wrong caller are found there.
-- OUT.txt gets `key value` lines and the whole latency histogram as `us MICROSECONDS COUNT`.

local threads = {}

function setup(thread)
  thread:set("number", #threads)
  table.insert(threads, thread)
end

-- An answer with its numbers taken out, and the numbers.
local function split(body)
  local numbers = {}
  local text = body:gsub("%d[%d%.eE%-+]*", function(number)
    numbers[#numbers + 1] = number
    return "#"
  end)
  return text, numbers
end

local function is_near(one, other, tolerance)
  if one == other then return true end
  local a, b = tonumber(one), tonumber(other)
  if not a or not b then return false end
  local is_decimal = one:find("[%.e]") and other:find("[%.e]")
  return is_decimal and math.abs(a - b) <= tolerance
end

local function are_near(ones, others, tolerance)
  if #ones ~= #others then return false end
  for i = 1, #ones do
    if not is_near(ones[i], others[i], tolerance) then return false end
  end
  return true
end

function init(args)
  local plan = dofile(args[1])
  out = args[2]
  prepared, exact, by_text = {}, {}, {}
  for i, body in ipairs(plan.requests) do
    prepared[i] = wrk.format("POST", plan.path, plan.headers, body)
  end
  for _, body in ipairs(plan.expected) do
    exact[body] = true
    local text, numbers = split(body)
    by_text[text] = by_text[text] or {}
    table.insert(by_text[text], numbers)
  end
  tolerance = plan.tolerance
  at, right, near, wrong, refused = number * 7, 0, 0, 0, 0
end

function request()
  at = at % #prepared + 1
  return prepared[at]
end

function response(status, _, body)
  if status ~= 200 then
    refused = refused + 1
  elseif exact[body] then
    right = right + 1
  else
    local text, numbers = split(body)
    for _, expected in ipairs(by_text[text] or {}) do
      if are_near(numbers, expected, tolerance) then
        near = near + 1
        return
      end
    end
    wrong = wrong + 1
  end
end

function done(summary, latency, _)
  local file = assert(io.open(threads[1]:get("out"), "w"))
  for _, key in ipairs({"right", "near", "wrong", "refused"}) do
    local sum = 0
    for _, thread in ipairs(threads) do sum = sum + thread:get(key) end
    file:write(key, " ", sum, "\n")
  end
  for key, count in pairs(summary.errors) do file:write("error_", key, " ", count, "\n") end
  file:write("requests ", summary.requests, "\nduration_us ", summary.duration, "\n")
  for i = 1, #latency do
    local value, count = latency(i)
    file:write(string.format("us %d %d\n", value, count))
  end
  file:close()
end
