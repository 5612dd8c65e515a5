-- ARGV: epoch, number, cursor, next_sequence, then per open issue of the record: sequence, "attempt:prompt_id".
-- What the record knows as issued and not open was recorded by it or a batch before; the open ones are live again, with
-- or without an entry. Repeated: the same state.
local refusal = fenced('run', ARGV[1])
if refusal then return refusal end
if tonumber(ARGV[2]) < counter('committed') then return redis.status_reply('OK') end
local open = {}
for i = 5, #ARGV, 2 do
  open[ARGV[i]] = true
  redis.call('HSETNX', issued, ARGV[i], ARGV[i + 1])
end
for _, sequence in ipairs(redis.call('HKEYS', issued)) do
  if tonumber(sequence) < tonumber(ARGV[4]) and not open[sequence] then
    forget(sequence)
    redis.call('HDEL', issued, sequence)
    redis.call('HDEL', settled, sequence)
  end
end
raise('committed', ARGV[2])
raise('cursor', ARGV[3])
raise('next_sequence', ARGV[4])
return redis.status_reply('OK')
