-- ARGV: epoch, cursor, first sequence, then per prompt: "attempt:prompt_id", data.
-- Repeated: the sequences stand already, with the same prompts, and nothing is added.
local refusal = fenced('run', ARGV[1])
if refusal then return refusal end
local first, count, expected = tonumber(ARGV[3]), (#ARGV - 3) / 2, counter('next_sequence')
if count > 0 and first + count <= expected then
  for i = 0, count - 1 do
    local known = redis.call('HGET', issued, string.format('%d', first + i))
    if known and known ~= ARGV[4 + 2 * i] then
      return redis.error_reply('REFUSED sequence ' .. (first + i) .. ' was issued before, to ' .. known)
    end
  end
  return redis.status_reply('OK')
end
if count > 0 and first ~= expected then
  local code = first > expected and 'LOST ' or 'REFUSED '
  return redis.error_reply(code .. 'sequences from ' .. first .. ' do not continue next_sequence ' .. expected)
end
for i = 0, count - 1 do
  local sequence = string.format('%d', first + i)
  put('prompts', sequence, ARGV[5 + 2 * i], '-')
  redis.call('HSET', issued, sequence, ARGV[4 + 2 * i])
end
redis.call('HSET', counters, 'cursor', ARGV[2], 'next_sequence', string.format('%d', expected + count))
return redis.status_reply('OK')
