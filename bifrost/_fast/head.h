/* What becomes of each HTTP header, and the checks every header line must pass. */
#ifndef BF_HEAD_H
#define BF_HEAD_H
#include <stddef.h>
#include <stdint.h>
#include <string.h>

/* FORWARD goes on, DROP stays here, the rest is read as well. */
enum { FORWARD, DROP, HOP, X_BF_VK, AUTHORIZATION, X_API_KEY, X_GOOG_API_KEY, API_KEY, LENGTH,
       ENCODING, REQUEST_ID, SESSION, AGENT_SESSION, VERSION, BETA, USER_AGENT };
typedef struct { uint8_t size, role; const char *name; } head_rule;
#define RULE(role, name) {sizeof(name) - 1, role, name}
#define HOPS RULE(HOP, "connection"), RULE(HOP, "keep-alive"), \
    RULE(HOP, "proxy-authenticate"), RULE(HOP, "proxy-authorization"), \
    RULE(HOP, "proxy-connection"), RULE(HOP, "te"), RULE(HOP, "trailer"), \
    RULE(HOP, "transfer-encoding"), RULE(HOP, "upgrade")

static const head_rule head_requests[] = {
    HOPS, RULE(DROP, "host"), RULE(DROP, "expect"), RULE(DROP, "accept-encoding"),
    RULE(DROP, "cookie"), RULE(DROP, "forwarded"), RULE(DROP, "x-real-ip"), RULE(DROP, "via"),
    RULE(DROP, "anthropic-organization-id"), RULE(DROP, "anthropic-workspace-id"),
    RULE(X_BF_VK, "x-bf-vk"), RULE(AUTHORIZATION, "authorization"),
    RULE(X_API_KEY, "x-api-key"), RULE(X_GOOG_API_KEY, "x-goog-api-key"),
    RULE(API_KEY, "api-key"), RULE(LENGTH, "content-length"),
    RULE(ENCODING, "content-encoding"), RULE(REQUEST_ID, "x-request-id"),
    RULE(SESSION, "x-bf-session-id"), RULE(AGENT_SESSION, "x-claude-code-session-id"),
    RULE(VERSION, "anthropic-version"), RULE(BETA, "anthropic-beta"),
    RULE(USER_AGENT, "user-agent"), {0, 0, NULL}
};
static const head_rule head_responses[] = {
    HOPS, RULE(DROP, "date"), RULE(DROP, "server"), RULE(DROP, "set-cookie"),
    RULE(DROP, "alt-svc"), RULE(DROP, "strict-transport-security"),
    RULE(DROP, "anthropic-organization-id"), RULE(DROP, "anthropic-workspace-id"), {0, 0, NULL}
};
static const head_rule head_request_starts[] = {
    RULE(DROP, "x-bf-"), RULE(DROP, "x-forwarded-"), {0, 0, NULL}
};
static const head_rule head_response_starts[] = {
    RULE(DROP, "x-bf-"), RULE(DROP, "cf-"), RULE(DROP, "anthropic-ratelimit-"), {0, 0, NULL}
};

static inline int head_role(const head_rule *whole, const head_rule *starts, const char *name,
                     size_t size)
{
    for (; whole->size; whole++)
        if (whole->size == size && whole->name[0] == name[0] && !memcmp(whole->name, name, size))
            return whole->role;
    for (; starts->size; starts++)
        if (size >= starts->size && !memcmp(starts->name, name, starts->size))
            return starts->role;
    return FORWARD;
}

/* Copies a header name in lower case; 0 when it is not a token (RFC 9110, section 5.6.2). */
static inline int head_lower(const char *name, size_t size, char *out)
{
    size_t i;
    for (i = 0; i < size; i++) {
        uint8_t c = (uint8_t)name[i];
        if (c >= 'A' && c <= 'Z')
            c |= 0x20;
        else if (!((c >= 'a' && c <= 'z') || (c >= '0' && c <= '9') || c == '-' ||
                   (c && strchr("!#$%&'*+.^_`|~", c))))
            return 0;
        out[i] = (char)c;
    }
    return size > 0;
}

static inline int head_clean(const char *value, size_t size)
{
    return !memchr(value, 0, size) && !memchr(value, '\n', size) && !memchr(value, '\r', size);
}

/* Cuts the value of a credential header down to its virtual key; 0 when it holds another one. */
static inline int head_key(int role, const char **value, size_t *size)
{
    const char *p = *value, *end = p + *size;
    int i;
#define BLANK(c) ((c) == ' ' || (c) == '\t')
    while (p < end && BLANK(*p))
        p++;
    while (p < end && BLANK(end[-1]))
        end--;
    if (role == AUTHORIZATION) {
        if (end - p < 8 || !BLANK(p[6]))
            return 0;
        for (i = 0; i < 6; i++)
            if ((p[i] | 0x20) != "bearer"[i])
                return 0;
        for (p += 6; p < end && BLANK(*p);)
            p++;
    }
#undef BLANK
    *value = p;
    *size = (size_t)(end - p);
    return role == X_BF_VK ? end > p : end - p >= 6 && !memcmp(p, "sk-bf-", 6);
}
#endif
