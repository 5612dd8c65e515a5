-- ARGV: epoch, number, cursor, next_sequence, then the sequences that the batch records as settled.
-- Repeated: finds nothing left to remove.
local refusal = fenced('trainer', ARGV[1])
if refusal then return refusal end
if tonumber(ARGV[2]) > counter('committed') + 1 then
  return redis.error_reply('LOST batch ' .. ARGV[2] .. ' does not follow batch ' .. counter('committed'))
end
for i = 5, #ARGV do
  forget(ARGV[i])
  redis.call('HDEL', issued, ARGV[i])
  redis.call('HDEL', settled, ARGV[i])
end
raise('committed', ARGV[2])
raise('cursor', ARGV[3])
raise('next_sequence', ARGV[4])
return redis.status_reply('OK')
