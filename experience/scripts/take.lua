-- ARGV: sequences. Returns a flat list of sequence, data for those that have arrived.
local found = {}
for _, sequence in ipairs(ARGV) do
  local stream, id = place(sequence)
  if stream == 'experience' then
    found[#found + 1] = sequence
    found[#found + 1] = entry(stream, id)
  end
end
return found
