-- ARGV: epoch, limit, stage, id, worker, deliveries, sequence. Returns 1: run it alone; 0: quarantined; -1: not held.
-- Repeated: a delivery is counted once; after a quarantine the entry is no longer held (-1), and not to be run either.
local refusal = fenced('run', ARGV[1])
if refusal then return refusal end
local limit, stage, id, worker, deliveries, sequence = tonumber(ARGV[2]), unpack(ARGV, 3, 7)
if not held(stage, id, worker, deliveries) then return -1 end
local field = stage .. ':' .. sequence
local count, counted = string.match(redis.call('HGET', alone, field) or '0 0', '^(%d+) (%d+)$')
if counted ~= deliveries then
  count = tonumber(count) + 1
  redis.call('HSET', alone, field, string.format('%d %s', count, deliveries))
end
if tonumber(count) <= limit then return 1 end
local last = redis.call('HGET', failures, sequence) or 'the worker died'
local reason = stage .. ': failed ' .. limit .. ' deliveries alone; last: ' .. last
redis.call('XADD', streams.quarantine, 'MAXLEN', 1000, '*', 'sequence', sequence, 'data', entry(stage, id), 'reason', reason)
redis.call('HSETNX', settled, sequence, cjson.encode({ 'quarantined', reason }))
forget(sequence)
return 0
