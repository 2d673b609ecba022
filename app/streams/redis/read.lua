-- `read`, for all readers of a process that ask at once. `questions` are packed: stream, counts, whether the reader waits.
-- Returns the packed replies: status, batches, ending, orphaned, expires.
local process, questions = ARGV[1], ARGV[2]

local function binary(bytes)
  return '\198' .. struct.pack('>I4', #bytes) .. bytes
end

-- Edits at `count` itself are repeated, because the count does not say whether the reader knows them.
local function edits_from(at, count)
  local edits = {}
  for _, kept in ipairs(redis.call('LRANGE', P .. 'e:' .. at, 0, -1)) do
    local space = string.find(kept, ' ', 17, true)
    if tonumber(string.sub(kept, 17, space - 1)) >= count then edits[#edits + 1] = string.sub(kept, space + 1) end
  end
  if #edits > 0 then return array(edits) end
end

-- What follows the first `count` tokens of a choice, packed, and whether there are tokens; nil if nothing follows.
local function after(at, choice, count, finish, has_logprobs, is_edited)
  local tokens = redis.call('GETRANGE', P .. 't:' .. at, 4 * count, -1)
  local edits = is_edited and edits_from(at, count)
  if tokens == '' and not finish and not edits then return nil, false end
  local logprobs = NIL
  if has_logprobs and redis.call('EXISTS', P .. 'p:' .. at) == 1 then
    logprobs = array(redis.call('LRANGE', P .. 'p:' .. at, count, -1))
  end
  local batch = {pack(choice), pack(count), binary(tokens), finish or NIL, logprobs, edits or NIL}
  return array(batch), tokens ~= ''
end

local function read(id, counts, waits)
  local key = P .. 's:' .. id
  local fields = {'HMGET', key, 'producer', 'ending', 'expires', 'watch', 'logprobs', 'edited'}
  local fixed = #fields - 2
  for i = 1, #counts do fields[#fields + 1] = 'f' .. (i - 1) end
  local s = redis.call(unpack(fields))
  if not s[1] then return array({pack(missing(id)), array({}), NIL, pack(false), pack(0)}) end
  local orphaned = not s[2] and is_gone(s[1])
  local batches, is_new = {}, s[2] or orphaned
  for i, count in ipairs(counts) do
    local batch, has_tokens = after(id .. ':' .. (i - 1), i - 1, count, s[fixed + i], s[5], s[6])
    batches[#batches + 1] = batch
    is_new = is_new or has_tokens
  end
  if waits and not is_new then
    local watch = s[4] or ''
    if not string.find(watch, process, 1, true) then redis.call('HSET', key, 'watch', watch .. ' ' .. process) end
  end
  return array({pack(1), array(batches), s[2] or NIL, pack(orphaned), pack(tonumber(s[3]))})
end

local replies = {}
for i, asked in ipairs(cmsgpack.unpack(questions)) do replies[i] = read(asked[1], asked[2], asked[3]) end
return array(replies)
