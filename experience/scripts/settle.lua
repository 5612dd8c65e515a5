-- ARGV: epoch, JSON [outcome, reason], then sequences. Repeated: the first settlement stands.
local refusal = fenced('trainer', ARGV[1])
if refusal then return refusal end
local expected = counter('next_sequence')
for i = 3, #ARGV do
  if tonumber(ARGV[i]) >= expected then
    return redis.error_reply('LOST sequence ' .. ARGV[i] .. ' was never issued, next_sequence is ' .. expected)
  end
end
for i = 3, #ARGV do
  if redis.call('HEXISTS', issued, ARGV[i]) == 1 and redis.call('HSETNX', settled, ARGV[i], ARGV[2]) == 1 then
    forget(ARGV[i])
  end
end
return redis.status_reply('OK')
