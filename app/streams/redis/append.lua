-- `append`. ARGV: producer, process, the packed appends, then blobs, which are kept as they are. An append is packed like
-- `app.streams.store.Append`, with the number of a blob, from 1, for the ending and for the log probabilities of a batch's first
-- token (the others follow it). An edit is the change's id, where the edit ends, and the number of its blob.
-- Returns the packed rejections, false if there are none.
local producer, process, appends, blobs = ARGV[1], ARGV[2], ARGV[3], 3

local function starts_with(id, kept)
  return string.sub(kept, 1, #id) == id
end

local function edit(id, key, at, edits, expires)
  local list, waiting = P .. 'e:' .. at, P .. 'w:' .. id
  local here = redis.call('LRANGE', list, 0, -1)
  for _, one in ipairs(edits) do
    local known = false
    for _, kept in ipairs(here) do known = known or starts_with(one[1], kept) end
    if not known then redis.call('RPUSH', list, one[1] .. string.format('%.0f', one[2]) .. ' ' .. ARGV[blobs + one[3]]) end
    for _, change in ipairs(redis.call('LRANGE', waiting, 0, -1)) do
      if starts_with(one[1], change) then redis.call('LREM', waiting, 1, change) end
    end
  end
  redis.call('PEXPIREAT', list, expires)
  redis.call('HSET', key, 'edited', 1)
end

local function add(id, key, batch, expires)
  local choice, position, ids, first_logprob = batch[2], batch[3], batch[4], batch[7]
  local at = id .. ':' .. choice
  local known = redis.call('STRLEN', P .. 't:' .. at) / 4 - position
  if known < 0 then return false end
  if known < #ids then
    local packed = {}
    for i = known + 1, #ids do packed[#packed + 1] = struct.pack('<I4', ids[i]) end
    redis.call('APPEND', P .. 't:' .. at, table.concat(packed))
    if first_logprob then
      for i = known, #ids - 1 do redis.call('RPUSH', P .. 'p:' .. at, ARGV[blobs + first_logprob + i]) end
    end
    if known + position == 0 then
      redis.call('PEXPIREAT', P .. 't:' .. at, expires)
      redis.call('PEXPIREAT', P .. 'p:' .. at, expires)
    end
  end
  if batch[9] then edit(id, key, at, batch[9], expires) end
  if batch[5] then redis.call('HSET', key, 'f' .. choice, cmsgpack.pack({batch[5], batch[6]})) end
  return true
end

local function conclude(id, key, ending)
  local s = redis.call('HMGET', key, 'n', 'idempotency', 'prompt')
  local expires, size = now + RETENTION, s[3]
  redis.call('HSET', key, 'ending', ending, 'expires', expires)
  redis.call('PEXPIREAT', key, expires)
  for i = 0, s[1] - 1 do
    local tokens = P .. 't:' .. id .. ':' .. i
    size = size + redis.call('STRLEN', tokens) / 4
    redis.call('PEXPIREAT', tokens, expires)
    redis.call('PEXPIREAT', P .. 'p:' .. id .. ':' .. i, expires)
    redis.call('PEXPIREAT', P .. 'e:' .. id .. ':' .. i, expires)
  end
  redis.call('UNLINK', P .. 'w:' .. id)
  redis.call('PEXPIREAT', P .. 'd:' .. id, expires + TOMBSTONE)
  if s[2] then redis.call('PEXPIREAT', P .. 'i:' .. s[2], expires) end
  redis.call('ZREM', P .. 'running', id)
  redis.call('ZADD', P .. 'ended', expires, id)
  redis.call('ZREM', P .. 'c:' .. producer, id)
  resize(id, size)
end

local function add_all(id, key, batches, ending, expires)
  for _, batch in ipairs(batches) do
    -- Tokens are missing: the server has lost what it had confirmed. The producer creates the stream again.
    if not add(id, key, batch, expires) then return false end
  end
  if ending then conclude(id, key, ARGV[blobs + ending]) end
  return true
end

renew(producer, process)
local rejections = {}
for _, append in ipairs(cmsgpack.unpack(appends)) do
  local id = append[1]
  local key = P .. 's:' .. id
  local s = redis.call('HMGET', key, 'producer', 'epoch', 'ending', 'expires', 'watch')
  if not s[1] then
    table.insert(rejections, {id, 'unknown'})
  elseif s[1] ~= producer or tonumber(s[2]) ~= append[2] then
    table.insert(rejections, {id, 'stale'})
  elseif not s[3] then
    if not add_all(id, key, append[3], append[4], s[4]) then table.insert(rejections, {id, 'unknown'}) end
    wake_readers(id, s[5])
  end
end
publish()
if #rejections == 0 then return false end
return cmsgpack.pack(rejections)
