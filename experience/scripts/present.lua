-- Returns the sequences whose entry stands in a stream.
local found = {}
for _, sequence in ipairs(redis.call('HKEYS', places)) do
  local stream, id = place(sequence)
  if entry(stream, id) then found[#found + 1] = sequence end
end
return found
