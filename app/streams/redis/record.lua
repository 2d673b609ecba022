-- `record`. Returns the owner and the record; the owner alone for a stream past its retention.
local id = ARGV[1]
local kept = redis.call('HMGET', P .. 's:' .. id, 'owner', 'record')
if kept[1] then return kept end
return {redis.call('GET', P .. 'd:' .. id)}
