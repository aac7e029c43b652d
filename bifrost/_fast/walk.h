/* Walks one JSON document without recursion and keeps what wire.pyx asks for: three readers.
 *
 * BF_REQUEST reads a Messages request strictly. BF_EVENT reads one event of a stream and BF_CUT
 * finds one key of an answer, both leniently inside strings: a client would show such an event
 * too, and metering must not lose it. Only bf_push and bf_reserve allocate.
 */
#ifndef BF_WALK_H
#define BF_WALK_H
#include <stdlib.h>
#include "scan.h"
#include "store.h"
#define BF_DEPTH 512   /* nesting that is accepted */
#define BF_ITEMS 4096  /* tool types, tool models and fallback models kept in all */
#define BF_CAP ((size_t)1 << 20) /* bytes that one bf_store keeps */
#define BF_NONE INT64_MIN

enum { BF_REQUEST, BF_EVENT, BF_CUT };
/* Keys of a request with a meaning, in the order of bf_names, then those of events and answers. */
enum { BF_OTHER, BF_MODEL, BF_STREAM, BF_MAX_TOKENS, BF_SERVICE_TIER, BF_SPEED, BF_GEO,
       BF_FALLBACKS, BF_CREDIT, BF_BILLING, BF_THREAD, BF_CONTAINER, BF_MCP, BF_TOOLS,
       BF_THINKING, BF_TYPE, BF_TTL, BF_MAX_USES, BF_BUDGET, BF_ROLES,
       BF_CHANGE = BF_ROLES, BF_USAGE, BF_CONTENT, BF_NAMED };
/* Where the walk is: in which object or, with BF_LIST added, in which array. */
enum { BF_ANY, BF_ROOT, BF_TOOL, BF_FALLBACK, BF_PLAN, BF_DELTA, BF_PLACES, BF_LIST = 128 };

static const struct { uint8_t size; const char *name; } bf_names[BF_ROLES] = {
    {0, ""}, {5, "model"}, {6, "stream"}, {10, "max_tokens"}, {12, "service_tier"}, {5, "speed"},
    {13, "inference_geo"}, {9, "fallbacks"}, {21, "fallback_credit_token"}, {14, "billing_policy"},
    {6, "thread"}, {9, "container"}, {11, "mcp_servers"}, {5, "tools"}, {8, "thinking"},
    {4, "type"}, {3, "ttl"}, {8, "max_uses"}, {13, "budget_tokens"},
};
/* Kinds a value may have at the top of a request; 0 where the key means nothing there. */
#define BF_NAME (BF_STRING | BF_NULL)
static const uint8_t bf_kinds[BF_ROLES] = {
    0, BF_STRING, BF_BOOL | BF_NULL, BF_INTEGER, BF_NAME, BF_NAME, BF_NAME,
    127, 127, 127, 127, 127, 127, 127, 127, 0, 0, 0, 0,
};
/* Keys that may appear once only, by place: two readers could disagree on which one counts. */
static const uint32_t bf_single[BF_PLACES] = {
    0, (1u << BF_TYPE) - 2, 1u << BF_MODEL | 1u << BF_TYPE | 1u << BF_MAX_USES, 1u << BF_MODEL,
    1u << BF_BUDGET, 0,
};

typedef struct { int role; bf_text text; int64_t uses; } bf_item;

typedef struct {
    bf_input in;
    int role, place;                  /* the field an error is about, and where it stands */
    const char *name;                 /* BF_CUT: the key to find */
    size_t name_size, cut_start, cut_end;
    int cutting;
    int usage;                        /* BF_EVENT: has a usage object */
    size_t content;                   /* BF_EVENT: bytes of generated content */
    bf_text type;                     /* BF_EVENT: of the event; BF_REQUEST: of the open tool */
    bf_text texts[BF_GEO + 1];     /* BF_REQUEST: values at the top; end is 0 when absent */
    uint32_t seen[BF_PLACES], present;
    int64_t max_tokens, budget, uses, images, documents, remote;
    int stream, ttl_1h;
    bf_item *items;
    size_t count, room;
} bf_scan;

/* Makes room for more bytes; 0, changing nothing, beyond BF_CAP or without memory. */
static int bf_reserve(bf_store *store, size_t more)
{
    size_t need = store->size + more;
    uint8_t *base;
    if (more > BF_CAP || need > BF_CAP || need <= store->room)
        return more <= BF_CAP && need <= BF_CAP;
    need = need < 1024 ? 1024 : need * 2;
    if (!(base = realloc(store->base, need)))
        return 0;
    store->base = base;
    store->room = need;
    return 1;
}

static int bf_append(bf_store *store, const void *bytes, size_t size)
{
    if (!bf_reserve(store, size))
        return 0;
    if (size)
        memcpy(store->base + store->size, bytes, size);
    store->size += size;
    return 1;
}

static int bf_push(bf_scan *s, int role, const bf_text *text)
{
    if (s->count == s->room) {
        size_t room = s->room ? s->room * 4 : 16;
        bf_item *items = room > BF_ITEMS ? NULL : realloc(s->items, room * sizeof *items);
        if (!items)
            return bf_fail(&s->in, BF_MANY, s->in.base + text->start);
        s->items = items;
        s->room = room;
    }
    s->items[s->count].role = role;
    s->items[s->count].text = *text;
    s->items[s->count++].uses = s->uses;
    return 1;
}

/* The meaning of a key of a request in a place with keys of its own; -1 after an error. */
static int bf_placed_key(bf_scan *s, int place, const bf_text *key)
{
    int role = BF_MODEL;
    while (role < BF_ROLES && !bf_same(&s->in, key, bf_names[role].name, bf_names[role].size))
        role++;
    if (role == BF_ROLES)
        return BF_OTHER;
    if ((bf_single[place] & s->seen[place]) >> role & 1) {
        s->role = role;
        s->place = place;
        bf_fail(&s->in, BF_DUPLICATE, s->in.base + key->start - 1);
        return -1;
    }
    s->seen[place] |= 1u << role;
    return role;
}

/* The meaning of a key of a request in this place; -1 after an error. */
BF_INLINE int bf_request_key(bf_scan *s, int place, const bf_text *key)
{
    if (place != BF_ANY)
        return bf_placed_key(s, place, key);
    return BF_IS(&s->in, key, "type") ? BF_TYPE : BF_IS(&s->in, key, "ttl") ? BF_TTL : BF_OTHER;
}

/* The meaning of a key of an event or of an answer. */
BF_INLINE int bf_answer_key(bf_scan *s, int mode, int place, const bf_text *key)
{
    const bf_input *in = &s->in;
    if (mode == BF_CUT)
        return place == BF_ROOT && bf_same(in, key, s->name, s->name_size) ? BF_NAMED : BF_OTHER;
    if (place == BF_ROOT)
        return BF_IS(in, key, "type") ? BF_TYPE : BF_IS(in, key, "delta") ? BF_CHANGE
             : BF_IS(in, key, "usage") ? BF_USAGE : BF_OTHER;
    return place == BF_DELTA && (BF_IS(in, key, "text") || BF_IS(in, key, "partial_json") ||
                                 BF_IS(in, key, "thinking")) ? BF_CONTENT : BF_OTHER;
}

/* Takes note of a value at the top of a request; 0 after an error. `start` is its first byte. */
static int bf_root_value(bf_scan *s, int role, int kind, const bf_text *text, const uint8_t *start)
{
    s->role = role;
    s->place = BF_ROOT;
    if (!(bf_kinds[role] & kind))
        return bf_fail(&s->in, BF_FIELD, start);
    if (kind != BF_NULL)
        s->present |= 1u << role;
    if (role == BF_STREAM)
        s->stream = *start == 't';
    else if (role <= BF_GEO && kind != BF_NULL)
        s->texts[role] = *text;
    if (role == BF_FALLBACKS && kind == BF_STRING)
        return bf_push(s, role, text);
    if (role == BF_MAX_TOKENS &&
        (*start == '-' || !bf_integer(start, s->in.base + text->end, &s->max_tokens)))
        return bf_fail(&s->in, BF_FIELD, start);
    return 1;
}

/* Takes note of any string, number, true, false or null of a request; 0 after an error. */
BF_INLINE int bf_request_value(bf_scan *s, int place, int role, int kind, const bf_text *text,
                               const uint8_t *start)
{
    const bf_input *in = &s->in;
    if (kind == BF_STRING && role == BF_TTL)
        s->ttl_1h |= !BF_IS(in, text, "5m");
    if (kind == BF_STRING && role == BF_TYPE) {
        s->images += BF_IS(in, text, "image");
        s->documents += BF_IS(in, text, "document") || BF_IS(in, text, "container_upload");
        s->remote += BF_IS(in, text, "url") || BF_IS(in, text, "file");
        if (place == BF_TOOL && !BF_IS(in, text, "custom"))
            s->type = *text;
    }
    if (place == BF_ROOT && bf_kinds[role])
        return bf_root_value(s, role, kind, text, start);
    if (kind == BF_STRING && (place == (BF_FALLBACK | BF_LIST) ||
                              (place == BF_FALLBACK && role == BF_MODEL)))
        return bf_push(s, BF_FALLBACKS, text);
    if (kind == BF_STRING && place == BF_TOOL && role == BF_MODEL)
        return bf_push(s, BF_MODEL, text);
    if (kind == BF_INTEGER && ((place == BF_PLAN && role == BF_BUDGET) ||
                               (place == BF_TOOL && role == BF_MAX_USES))) {
        s->role = role;
        s->place = place;
        if (!bf_integer(start, in->base + text->end, place == BF_PLAN ? &s->budget : &s->uses))
            return bf_fail(&s->in, BF_FIELD, start);
    }
    return 1;
}

/* The place that an array or object of a request is; -1 after an error. */
static int bf_request_open(bf_scan *s, int place, int role, int kind, int empty,
                           const uint8_t *start)
{
    if (place == BF_ROOT && bf_kinds[role]) {
        s->role = role;
        s->place = BF_ROOT;
        if (!(bf_kinds[role] & kind)) {
            bf_fail(&s->in, BF_FIELD, start);
            return -1;
        }
        if (!empty)
            s->present |= 1u << role;
        if (role == BF_TOOLS && kind == BF_ARRAY)
            return BF_TOOL | BF_LIST;
        if (role == BF_FALLBACKS)
            return kind == BF_ARRAY ? BF_FALLBACK | BF_LIST : BF_FALLBACK;
        if (role == BF_THINKING && kind == BF_OBJECT)
            return BF_PLAN;
    }
    if (kind == BF_ARRAY)
        return BF_LIST;
    if (place == (BF_TOOL | BF_LIST)) {
        s->type.end = 0;
        s->uses = BF_NONE;
    } else if (place != (BF_FALLBACK | BF_LIST))
        return BF_ANY;
    s->seen[place & ~BF_LIST] = 0;
    return place & ~BF_LIST;
}

/* What bf_request_value and bf_request_open are for requests, for events and answers. */
BF_INLINE void bf_answer_value(bf_scan *s, int role, int kind, const bf_text *text,
                               const uint8_t *start)
{
    if (role == BF_TYPE) {
        s->type = *text;
        if (kind != BF_STRING)
            s->type.end = 0;
    } else if (role == BF_CONTENT && kind == BF_STRING) {
        s->content += text->end - text->start - text->saved;
    } else if (role == BF_USAGE) {
        s->usage = kind == BF_OBJECT;
    } else if (role == BF_NAMED) {
        s->cutting = 1;
        s->cut_start = (size_t)(start - s->in.base);
    }
}

/* Reads true, false, null or a number from p; returns the byte after it, or NULL. */
BF_INLINE const uint8_t *bf_bare(bf_input *in, const uint8_t *p, const uint8_t *end, int *kind)
{
    const char *word = *p == 't' ? "true" : *p == 'f' ? "false" : *p == 'n' ? "null" : NULL;
    size_t size;
    if (!word) {
        if (*p == '-' || (uint8_t)(*p - '0') <= 9)
            return bf_number(in, p, end, kind);
        bf_fail(in, BF_VALUE, p);
        return NULL;
    }
    *kind = *p == 'n' ? BF_NULL : BF_BOOL;
    size = *p == 'f' ? 5 : 4;
    if ((size_t)(end - p) >= size && !memcmp(p, word, size))
        return p + size;
    bf_fail(in, BF_LITERAL, p);
    return NULL;
}

BF_INLINE const uint8_t *bf_blank(const uint8_t *p, const uint8_t *end)
{
    while (p < end && (*p == ' ' || *p == '\n' || *p == '\r' || *p == '\t'))
        p++;
    return p;
}

/* Walks the whole document; `mode` is a constant, so each reader is compiled on its own. */
BF_INLINE int bf_walk(bf_scan *s, int mode)
{
    bf_input *in = &s->in;
    const uint8_t *p = in->base, *end = in->base + in->size, *start;
    const int strict = mode == BF_REQUEST;
    int depth = 0, role = 0, place = BF_ANY, kind, next, empty;
    uint8_t stack[BF_DEPTH];
    bf_text text = {0, 0, 0};

    p = bf_blank(p, end);
    if (end - p > 2 && !memcmp(p, "\xEF\xBB\xBF", 3))
        return bf_fail(in, BF_BOM, p);
    if (p == end || *p != '{')
        return bf_fail(in, BF_NOT_OBJECT, p);
value:
    p = bf_blank(p, end);
    if (p == end)
        return bf_fail(in, BF_END, p);
    start = p;
    if (*p == '{' || *p == '[') {
        kind = *p == '{' ? BF_OBJECT : BF_ARRAY;
        p = bf_blank(p + 1, end);
        empty = p < end && *p == (kind == BF_OBJECT ? '}' : ']');
        if (depth == BF_DEPTH)
            return bf_fail(in, BF_DEEP, start);
        if (mode == BF_REQUEST)
            next = depth ? bf_request_open(s, place, role, kind, empty, start) : BF_ROOT;
        else {
            bf_answer_value(s, role, kind, &text, start);
            next = !depth ? BF_ROOT : kind == BF_ARRAY ? BF_LIST : role == BF_CHANGE ? BF_DELTA
                 : BF_ANY;
        }
        if (next < 0)
            return 0;
        stack[depth++] = (uint8_t)place;
        place = next;
        role = BF_OTHER;
        if (empty)
            goto close;
        if (kind == BF_ARRAY)
            goto value;
        goto key;
    }
    if (*p == '"') {
        kind = BF_STRING;
        p = bf_string(in, p + 1, end, strict, &text);
        p += p != NULL;
    } else {
        if (!(p = bf_bare(in, p, end, &kind)))
            return 0;
        text.start = (size_t)(start - in->base);
        text.end = (size_t)(p - in->base);
        text.saved = 0;
    }
    if (!p || (mode == BF_REQUEST && !bf_request_value(s, place, role, kind, &text, start)))
        return 0;
    if (mode != BF_REQUEST)
        bf_answer_value(s, role, kind, &text, start);
after:
    if (mode == BF_CUT && depth == 1 && s->cutting) {
        s->cut_end = (size_t)(p - in->base);
        s->cutting = 0;
    }
    p = bf_blank(p, end);
    if (!depth)
        return p == end ? 1 : bf_fail(in, BF_TRAILING, p);
    if (p == end)
        return bf_fail(in, BF_END, p);
    if (*p == ',') {
        p = bf_blank(p + 1, end);
        role = BF_OTHER;
        if (place & BF_LIST)
            goto value;
        goto key;
    }
    if (*p != (place & BF_LIST ? ']' : '}'))
        return bf_fail(in, BF_COMMA, p);
close:
    p++;
    if (mode == BF_REQUEST && place == BF_TOOL && s->type.end && !bf_push(s, BF_TYPE, &s->type))
        return 0;
    place = stack[--depth];
    goto after;
key:
    if (p == end || *p != '"')
        return bf_fail(in, p == end ? BF_END : BF_KEY, p);
    if (!(p = bf_string(in, p + 1, end, strict, &text)))
        return 0;
    role = mode == BF_REQUEST ? bf_request_key(s, place, &text)
                              : bf_answer_key(s, mode, place, &text);
    if (role < 0)
        return 0;
    p = bf_blank(p + 1, end);
    if (p == end || *p != ':')
        return bf_fail(in, p == end ? BF_END : BF_COLON, p);
    p++;
    goto value;
}

/* The readers. Each sets what it needs of *s and returns 1, or 0 with in.error and in.at. */
static int bf_request(bf_scan *s, const void *base, size_t size)
{
    memset(s, 0, sizeof *s);
    s->in.base = base;
    s->in.size = size;
    s->budget = s->uses = BF_NONE;
    return bf_walk(s, BF_REQUEST);
}

static int bf_event(bf_scan *s, const void *base, size_t size)
{
    s->in.base = base;
    s->in.size = size;
    s->content = s->type.end = 0;
    s->usage = 0;
    return bf_walk(s, BF_EVENT);
}

static int bf_cut(bf_scan *s, const void *base, size_t size, const char *name, size_t name_size)
{
    s->in.base = base;
    s->in.size = size;
    s->name = name;
    s->name_size = name_size;
    s->cut_start = s->cut_end = 0;
    s->cutting = 0;
    return bf_walk(s, BF_CUT);
}
#endif
