-- `count_readers`. Returns one more than the readers of the others, or the status of a missing stream.
local id, producer, process, readers = unpack(ARGV, 1, 4)
local key = P .. 's:' .. id
local s = redis.call('HMGET', key, 'n', 'ending')
if not s[1] then return missing(id) end
if s[2] then return 1 end
renew(producer, process)
redis.call('HSET', key, 'readers:' .. producer, readers)
local others = 0
for _, field in ipairs(redis.call('HKEYS', key)) do
  local other = string.match(field, '^readers:(.*)$')
  if other and other ~= producer and not is_gone(other) then others = others + redis.call('HGET', key, field) end
end
return others + 1
