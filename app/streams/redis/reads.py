"""The Lua scripts of the store in Redis that read: each follows the beginning that all scripts have in common (`scripts`)."""

from __future__ import annotations

PACKING = """
-- Answers are packed by hand where what the store keeps packed goes into them as it is.
local NIL = '\\192'
local pack = cmsgpack.pack

local function array(parts)
  return '\\221' .. struct.pack('>I4', #parts) .. table.concat(parts)
end
"""

# ARGV: process, what is asked: streams, counts of tokens known, whether the reader will wait.
READ = """
local function binary(bytes)
  return '\\198' .. struct.pack('>I4', #bytes) .. bytes
end

-- An edit that lies just at the count is told again, for that does not say whether the reader knows it.
local function edits_from(at, count)
  local edits = {}
  for _, kept in ipairs(redis.call('LRANGE', P .. 'e:' .. at, 0, -1)) do
    local space = string.find(kept, ' ', 17, true)
    if tonumber(string.sub(kept, 17, space - 1)) >= count then edits[#edits + 1] = string.sub(kept, space + 1) end
  end
  if #edits > 0 then return array(edits) end
end

local function behind(at, choice, count, finish, has_logprobs, is_edited)
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

local function look(id, counts, waits)
  local key = P .. 's:' .. id
  local fields = {'HMGET', key, 'producer', 'ending', 'expires', 'watch', 'logprobs', 'edited'}
  local fixed = #fields - 2
  for i = 1, #counts do fields[#fields + 1] = 'f' .. (i - 1) end
  local s = redis.call(unpack(fields))
  if not s[1] then return array({pack(missing(id)), array({}), NIL, pack(false), pack(0)}) end
  local orphaned = not s[2] and is_gone(s[1])
  local batches, is_new = {}, s[2] or orphaned
  for i, count in ipairs(counts) do
    local batch, has_tokens = behind(id .. ':' .. (i - 1), i - 1, count, s[fixed + i], s[5], s[6])
    batches[#batches + 1] = batch
    is_new = is_new or has_tokens
  end
  if waits and not is_new then
    local watch = s[4] or ''
    if not string.find(watch, ARGV[1], 1, true) then redis.call('HSET', key, 'watch', watch .. ' ' .. ARGV[1]) end
  end
  return array({pack(1), array(batches), s[2] or NIL, pack(orphaned), pack(tonumber(s[3]))})
end

local answers = {}
for i, asked in ipairs(cmsgpack.unpack(ARGV[2])) do answers[i] = look(asked[1], asked[2], asked[3]) end
return array(answers)
"""

# ARGV: stream. Returns owner and record; the owner alone when the stream is not there any more.
RECORD = """
local kept = redis.call('HMGET', P .. 's:' .. ARGV[1], 'owner', 'record')
if kept[1] then return kept end
return {redis.call('GET', P .. 'd:' .. ARGV[1])}
"""
