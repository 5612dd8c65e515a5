-- ARGV: the caller's time, ms, which counts where its user may not ask the server's. Returns the age in ms of the oldest
-- entry of prompts, completions, experience, quarantine (0 = empty); then for prompts and for completions how many are held,
-- and the longest time in ms since one of those was renewed.
local time = redis.pcall('TIME')
local now = time.err and tonumber(ARGV[1]) or time[1] * 1000 + math.floor(time[2] / 1000)
local reply = {}
for i = 8, 11 do
  local first = redis.call('XRANGE', KEYS[i], '-', '+', 'COUNT', 1)[1] -- none, also where a flush has taken the stream
  reply[#reply + 1] = first and math.max(0, now - tonumber(string.match(first[1], '^(%d+)-'))) or 0
end
for i = 8, 9 do
  local there = redis.call('EXISTS', KEYS[i]) == 1
  local total, count, longest = there and redis.call('XPENDING', KEYS[i], GROUP)[1] or 0, 0, 0
  if total > 0 then
    for _, pending in ipairs(redis.call('XPENDING', KEYS[i], GROUP, '-', '+', total)) do
      if pending[2] ~= NOBODY then count, longest = count + 1, math.max(longest, pending[3]) end
    end
  end
  reply[#reply + 1] = count
  reply[#reply + 1] = longest
end
return reply
