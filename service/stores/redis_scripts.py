"""The scripts that Redis runs for the store, in Lua: each is one moment, and whole or not at all.

Which keys there are is said in redis.py, which alone calls them; nothing here knows Python's side of it.
"""

from __future__ import annotations

from typing import Final

from service.stores.contract import HISTORY_TAIL

POSITION_DIGITS: Final = 16

# Redis decides whether memory or persistence allow writes before a script starts, so the first write fails or
# none does: the script as a whole is all or none.
APPEND: Final = """
local function take_back(user, item, time)
  local negatives = 'contrec:negatives:' .. user
  local disliked = redis.call('ZSCORE', negatives, item)
  if disliked and tonumber(disliked) < tonumber(time) then redis.call('ZREM', negatives, item) end
end
local new = {}
for i = 1, #ARGV, 8 do
  local id, user, item, time = ARGV[i], ARGV[i + 1], ARGV[i + 2], ARGV[i + 5]
  if redis.call('SADD', 'contrec:event_ids', id) == 1 then
    local position = redis.call('INCR', 'contrec:position')
    redis.call('XADD', 'contrec:log', string.format('%d-0', position), 'event_id', id, 'user_id', user, 'item_id', item,
      'type', ARGV[i + 3], 'value', ARGV[i + 4], 'time', time, 'recommendation_id', ARGV[i + 6],
      'negative', ARGV[i + 7])
    redis.call('SADD', 'contrec:seen:' .. user, item)
    redis.call('RPUSH', 'contrec:positions:' .. user, position)
    if ARGV[i + 7] == '1' then
      local liked = redis.call('ZSCORE', 'contrec:older:' .. user, item)
      if not liked or tonumber(liked) <= tonumber(time) then
        redis.call('ZADD', 'contrec:negatives:' .. user, 'GT', time, item)
      end
    else
      local history = 'contrec:history:' .. user
      redis.call('ZADD', history, time, string.format('%0POSITION_DIGITSd', position) .. item)
      redis.call('ZINCRBY', 'contrec:popular', -1, item)
      take_back(user, item, time)
      local beyond = redis.call('ZCARD', history) - TAIL
      local out = beyond > 0 and redis.call('ZPOPMIN', history, beyond) or {}
      for j = 1, #out, 2 do
        local old = string.sub(out[j], POSITION_DIGITS + 1)
        redis.call('ZADD', 'contrec:older:' .. user, 'GT', out[j + 1], old)
        take_back(user, old, out[j + 1])
      end
    end
    new[#new + 1] = (i - 1) / 8
  end
end
return new
""".replace("TAIL", str(HISTORY_TAIL)).replace("POSITION_DIGITS", str(POSITION_DIGITS))

# KEYS: the tokens key of each user. ARGV: the users. One moment for each of them, and one answer to parse for all.
READ_USERS: Final = """
local found = {}
for i, user in ipairs(ARGV) do
  found[i] = {
    redis.call('LINDEX', 'contrec:positions:' .. user, -1),
    redis.call('ZRANGE', 'contrec:history:' .. user, 0, -1, 'WITHSCORES'),
    redis.call('ZRANGE', 'contrec:negatives:' .. user, 0, -1, 'WITHSCORES'),
    redis.call('SMEMBERS', 'contrec:seen:' .. user),
    redis.call('GET', KEYS[i]),
  }
end
return found
"""

# KEYS: tokens key. ARGV: user, bundle, version, value (version bytes + tokens), ttl in milliseconds. When a user has
# their first tokens of a bundle, the names of those that have expired are forgotten; they would else stay for ever.
WRITE_TOKENS: Final = """
if redis.call('EXISTS', 'contrec:positions:' .. ARGV[1]) == 0 then return 0 end
local held = redis.call('GETRANGE', KEYS[1], 0, 7)
if #held == 8 and struct.unpack('<I8', held) > tonumber(ARGV[3]) then return 0 end
redis.call('SET', KEYS[1], ARGV[4], 'PX', ARGV[5])
local bundles = 'contrec:bundles:' .. ARGV[1]
if redis.call('SADD', bundles, ARGV[2]) == 1 then
  for _, other in ipairs(redis.call('SMEMBERS', bundles)) do
    if redis.call('EXISTS', 'contrec:tokens:' .. other .. ':' .. ARGV[1]) == 0 then
      redis.call('SREM', bundles, other)
    end
  end
end
return 1
"""

# ARGV: user. Nobody who reads finds the user afterwards, whatever the number of their events: what is left of them is
# under names of its own. Returns these: that of this history, and those of erasures that were interrupted.
LEAVE: Final = """
local user = ARGV[1]
local last = redis.call('LINDEX', 'contrec:positions:' .. user, -1)
if last then
  redis.call('RENAME', 'contrec:positions:' .. user, 'contrec:erased:' .. last)
  redis.call('SADD', 'contrec:erasing:' .. user, last)
end
for _, bundle in ipairs(redis.call('SMEMBERS', 'contrec:bundles:' .. user)) do
  redis.call('DEL', 'contrec:tokens:' .. bundle .. ':' .. user)
end
for _, kind in ipairs({'history:', 'seen:', 'older:', 'negatives:', 'bundles:'}) do
  redis.call('UNLINK', 'contrec:' .. kind .. user)
end
return redis.call('SMEMBERS', 'contrec:erasing:' .. user)
"""

# ARGV: user, a name that LEAVE returned, how many events. Returns how many were removed, 0 when none was left.
FORGET: Final = """
local left = 'contrec:erased:' .. ARGV[2]
local positions = redis.call('LPOP', left, ARGV[3]) or {}
for _, position in ipairs(positions) do
  local entry = redis.call('XRANGE', 'contrec:log', position .. '-0', position .. '-0')[1]
  if entry then
    redis.call('SREM', 'contrec:event_ids', entry[2][2])
    if entry[2][16] ~= '1' then
      local count = tonumber(redis.call('ZINCRBY', 'contrec:popular', 1, entry[2][6]))
      if count >= 0 then redis.call('ZREM', 'contrec:popular', entry[2][6]) end
    end
    redis.call('XDEL', 'contrec:log', position .. '-0')
  end
end
if redis.call('EXISTS', left) == 0 then redis.call('SREM', 'contrec:erasing:' .. ARGV[1], ARGV[2]) end
return #positions
"""

# ARGV: user, after, how many. The positions behind `after`: they ascend, so the first one is found by halves.
POSITIONS: Final = """
local positions, after = 'contrec:positions:' .. ARGV[1], tonumber(ARGV[2])
local low, high = 0, redis.call('LLEN', positions)
while low < high do
  local middle = math.floor((low + high) / 2)
  if tonumber(redis.call('LINDEX', positions, middle)) > after then high = middle else low = middle + 1 end
end
return redis.call('LRANGE', positions, low, low + ARGV[3] - 1)
"""

# ARGV: item, JSON, item, JSON, ... The versions are those of contract.next_version, by the clock of the server, which
# all replicas share; a double holds them exactly.
WRITE_ITEMS: Final = """
local version = tonumber(redis.call('GET', 'contrec:catalogue') or 0)
local now = redis.call('TIME')
for i = 1, #ARGV, 2 do
  version = math.max(version + 1, now[1] * 1000 + math.floor(now[2] / 1000))
  redis.call('HSET', 'contrec:items', ARGV[i], ARGV[i + 1])
  redis.call('ZADD', 'contrec:items_by_version', version, ARGV[i])
end
if #ARGV > 0 then redis.call('SET', 'contrec:catalogue', string.format('%.0f', version)) end
return version
"""

# ARGV: the version that the reader has. Item by item, as HMGET with all of them could pass what Lua unpacks.
READ_ITEMS: Final = """
local version = tonumber(redis.call('GET', 'contrec:catalogue') or 0)
local found = {version}
if version > tonumber(ARGV[1]) then
  for _, item in ipairs(redis.call('ZRANGEBYSCORE', 'contrec:items_by_version', '(' .. ARGV[1], '+inf')) do
    found[#found + 1] = redis.call('HGET', 'contrec:items', item)
  end
end
return found
"""

# KEYS: pointer key. ARGV: version, previous or nothing, moved.
WRITE_POINTER: Final = """
if tonumber(ARGV[3]) >= tonumber(redis.call('HGET', KEYS[1], 'moved') or 0) then
  redis.call('HSET', KEYS[1], 'version', ARGV[1], 'previous', ARGV[2], 'moved', ARGV[3])
end
return redis.call('HMGET', KEYS[1], 'version', 'previous', 'moved')
"""
