-- ARGV: epoch, stage, worker, count, lease_ms. Returns {last id of the stream, {{id, sequence, data, deliveries}, ...}}.
-- Repeated after a lost reply: the entries of the first call are nobody's until their lease expires; then they are
-- served again. A delay, and suspicion; never a loss.
local refusal = fenced('run', ARGV[1])
if refusal then return refusal end
local stage, worker, count, leased = ARGV[2], ARGV[3], tonumber(ARGV[4]), {}
local stream = streams[stage]
local start = '0-0'
repeat
  local reply = redis.call('XAUTOCLAIM', stream, GROUP, worker, ARGV[5], start, 'COUNT', count - #leased)
  start = reply[1]
  for _, found in ipairs(reply[2]) do
    local pending = redis.call('XPENDING', stream, GROUP, found[1], found[1], 1)[1]
    leased[#leased + 1] = { found[1], found[2][2], found[2][4], pending[4] }
  end
until start == '0-0' or #leased >= count
if #leased < count then
  local reply = redis.call('XREADGROUP', 'GROUP', GROUP, worker, 'COUNT', count - #leased, 'STREAMS', stream, '>')
  for _, found in ipairs(reply and reply[1][2] or {}) do
    leased[#leased + 1] = { found[1], found[2][2], found[2][4], 1 }
  end
end
local info, last = redis.call('XINFO', 'STREAM', stream), '0-0'
for i = 1, #info, 2 do
  if info[i] == 'last-generated-id' then last = info[i + 1] end
end
return { last, leased }
