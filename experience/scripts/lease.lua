-- ARGV: epoch, stage, worker, count, lease_ms, back_off_ms. Returns {last id of the stream, {{id, sequence, data, deliveries,
-- ms since its last holder renewed it or gave it back}, ...}}.
-- Served again: what its holder has not renewed for lease_ms; what was given back, after back_off_ms, doubled with each
-- delivery. Then what is new.
-- Repeated after a lost reply: the entries of the first call are nobody's until their lease expires; then they are
-- served again. A delay, and suspicion; never a loss.
local refusal = fenced('run', ARGV[1])
if refusal then return refusal end
local stage, worker, count, lease_ms, back_off_ms = ARGV[2], ARGV[3], tonumber(ARGV[4]), ARGV[5], tonumber(ARGV[6])
local stream, leased = streams[stage], {}

-- Pending entries that may be served, each once: what was delivered before first, then by age.
local function candidates()
  local found, seen = redis.call('XPENDING', stream, GROUP, 'IDLE', lease_ms, '-', '+', count), {}
  for _, pending in ipairs(found) do seen[pending[1]] = true end
  local length = redis.call('XLEN', stream)
  if length == 0 then return found end
  for _, pending in ipairs(redis.call('XPENDING', stream, GROUP, 'IDLE', back_off_ms, '-', '+', length, NOBODY)) do
    if pending[3] >= back_off_ms * 2 ^ (pending[4] - 1) and not seen[pending[1]] then found[#found + 1] = pending end
  end
  local function age(pending)
    local ms, seq = string.match(pending[1], '^(%d+)-(%d+)$')
    return pending[4] == 0 and 1 or 0, tonumber(ms), tonumber(seq)
  end
  table.sort(found, function(one, other)
    local fresh, ms, seq = age(one)
    local other_fresh, other_ms, other_seq = age(other)
    if fresh ~= other_fresh then return fresh < other_fresh end
    if ms ~= other_ms then return ms < other_ms end
    return seq < other_seq
  end)
  return found
end

for _, pending in ipairs(candidates()) do
  if #leased == count then break end
  for _, claimed in ipairs(redis.call('XCLAIM', stream, GROUP, worker, 0, pending[1])) do
    leased[#leased + 1] = { claimed[1], claimed[2][2], claimed[2][4], pending[4] + 1, pending[3] }
  end
end
if #leased < count then
  local reply = redis.call('XREADGROUP', 'GROUP', GROUP, worker, 'COUNT', count - #leased, 'STREAMS', stream, '>')
  for _, found in ipairs(reply and reply[1][2] or {}) do
    leased[#leased + 1] = { found[1], found[2][2], found[2][4], 1, 0 }
  end
end
local info, last = redis.call('XINFO', 'STREAM', stream), '0-0'
for i = 1, #info, 2 do
  if info[i] == 'last-generated-id' then last = info[i + 1] end
end
return { last, leased }
