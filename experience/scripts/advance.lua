-- ARGV: epoch, nonce, then per lease: stage, id, worker, deliveries, sequence, data. Returns 1 or 0 for each.
-- Only the present holder of an entry moves it on; XACK == 1 happens once per entry, so its output is added once.
-- Repeated after a lost reply: the group's place bears this call's nonce and item, and the answer is 1 again without a second
-- output (0 if it has already moved further: it is safe downstream, the caller has nothing left to do).
local refusal = fenced('run', ARGV[1])
if refusal then return refusal end
local moved = {}
for i = 3, #ARGV, 6 do
  local stage, id, worker, deliveries, sequence, data = unpack(ARGV, i, i + 5)
  local ours = ARGV[2] .. '.' .. i
  if held(stage, id, worker, deliveries) and redis.call('XACK', streams[stage], GROUP, id) == 1 then
    redis.call('XDEL', streams[stage], id)
    put(downstream[stage], sequence, data, ours)
    moved[#moved + 1] = 1
  else
    local stream, _, nonce = place(sequence)
    moved[#moved + 1] = (stream == downstream[stage] and nonce == ours) and 1 or 0
  end
end
return moved
