/* The optimizer Lion (Chen et al. 2023, https://arxiv.org/abs/2302.06675) in C, with the bits of examples/lion in Rust. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "mdt_plugin.h"

/* What a host reads without running anything: one line for the library, one for each component, with the JSON Schema of
   its configuration: every key has its type, what it is for and its default, and stands where it is used, without $ref. */
#define KEY(name, doc, value) \
    "\"" name "\":{\"description\":\"" doc "\",\"type\":\"number\",\"minimum\":0.0,\"exclusiveMaximum\":1.0,\"default\":" value "}"
#define SCHEMA \
    "{\"type\":\"object\",\"additionalProperties\":false,\"properties\":{" \
    KEY("beta1", "Weight of the momentum in the direction of an update.", "0.9") "," \
    KEY("beta2", "Decay of the momentum.", "0.99") "}}"
#define RECORDS \
    "{\"abi\":\"0.2\",\"package\":\"lion-c\",\"version\":\"1.0.0\",\"license\":\"MIT\",\"native\":\"\"}\n" \
    "{\"kind\":\"optimizer\",\"id\":\"lion-c\",\"interfaces\":[\"optimizer.slices/1\"],\"needs\":[],\"schema\":" SCHEMA "}\n"
#ifdef __APPLE__
__attribute__((used, section("__DATA,__mdt_plugin")))
#else
__attribute__((used, section(".mdt_plugin")))
#endif
static const char records[sizeof(RECORDS) - 1] = RECORDS;

typedef struct {
    float beta1, beta2;
} Lion;

/* Records in CBOR: a byte 0xa0 + n begins a map of n entries, 0x60 + n a text of n bytes, 0x80 + n a list of n. */
static bool reply(MdtSink_uint8_t out, const void *record, size_t length) {
    out.write(out.target, (MdtSlice_uint8_t){record, length});
    return true;
}
#define REPLY(out, record) reply(out, record, sizeof(record) - 1)

static bool fail(MdtSink_uint8_t out) {
    REPLY(out, "\xa2\x64" "code" "\x02\x67" "message" "\x78\x1d" "beta1 and beta2 are 0, 1 or f");
    return false;
}

/* Reads the number at `at`, in the widths that CBOR has for one; the end of it, or nothing. */
static const uint8_t *number(const uint8_t *at, const uint8_t *end, double *value) {
    if (at == end || (*at > 0x17 && (*at < 0xf9 || *at > 0xfb))) return NULL;
    if (*at <= 0x17) return *value = *at, at + 1;
    int width = 1 << (*at - 0xf8);
    if (end - at <= width) return NULL;
    uint64_t bits = 0;
    for (int i = 1; i <= width; i++) bits = bits << 8 | at[i];
    if (width == 2) {
        int exponent = bits >> 10 & 31, fraction = bits & 1023;
        *value = exponent == 0 ? ldexp(fraction, -24) : ldexp(1024 + fraction, exponent - 25);
        if (bits >> 15) *value = -*value;
    } else if (width == 4) {
        uint32_t word = (uint32_t)bits;
        float single;
        memcpy(&single, &word, 4), *value = single;
    } else {
        memcpy(value, &bits, 8);
    }
    return at + 1 + width;
}

static bool states(const void *object, MdtSink_uint8_t out) {
    (void)object; /* [{ name: "momentum", shape: "Parameter", dtype: 8 (float32), initial: { Value: 0 } }] */
    return REPLY(out, "\x81\xa4\x64" "name" "\x68" "momentum" "\x65" "shape" "\x69" "Parameter" "\x65" "dtype" "\x08"
                      "\x67" "initial" "\xa1\x65" "Value" "\xf9\0\0");
}

static bool granularity(const void *object, MdtSlice_uint8_t parameter, MdtSink_uint8_t out) {
    (void)object, (void)parameter;
    return REPLY(out, "\x67" "Element");
}

static bool update(const void *object, const MdtUpdate *ctx, MdtSliceMut_float parameter, MdtSlice_float gradient,
                   MdtSliceMut_MdtSliceMut_float states, MdtSink_uint8_t out) {
    (void)out;
    const Lion *lion = object;
    float rate = (float)ctx->learning_rate, decay = (float)ctx->weight_decay;
    float *momentum = states.data[0].data;
    for (size_t i = 0; i < parameter.length; i++) {
        float *p = &parameter.data[i], *m = &momentum[i], g = gradient.data[i];
        float direction = lion->beta1 * *m + (1.0f - lion->beta1) * g;
        float sign = direction == 0.0f ? 0.0f : copysignf(1.0f, direction);
        *p -= rate * (sign + decay * *p);
        *m = lion->beta2 * *m + (1.0f - lion->beta2) * g;
    }
    return true;
}

static MdtInterface offer(MdtStr asked, const char *name, const void *object, const void *table, uint64_t fingerprint) {
    bool same = asked.length == strlen(name) && memcmp(asked.data, name, asked.length) == 0;
    return same ? (MdtInterface){object, table, fingerprint} : (MdtInterface){NULL, NULL, 0};
}

static void free_lion(const void *data) {
    free((void *)data);
}

static MdtInterface lion_interface(const void *data, MdtStr name) {
    static const MdtOptimizerSlices table = {states, granularity, update};
    return offer(name, MdtOptimizerSlices_name, data, &table, MdtOptimizerSlices_fingerprint);
}

static bool describe(const void *object, MdtSink_uint8_t out) {
    (void)object;
    return REPLY(out, "\xa3\x64" "kind" "\x69" "optimizer" "\x62" "id" "\x66" "lion-c" "\x67" "version" "\x65" "1.0.0");
}

/* The configuration is a map with both keys, in the order of the schema or another. */
static bool create(const void *object, MdtSlice_uint8_t config, MdtSlice_uint8_t setup, MdtObject *services,
                   MdtObject *tokenizer, MdtObject *made, MdtSink_uint8_t out) {
    (void)object, (void)setup, (void)services, (void)tokenizer;
    double beta[2] = {0.9, 0.99};
    const uint8_t *at = config.data, *end = config.data + config.length;
    int keys = at < end && (*at & 0xe0) == 0xa0 ? *at++ & 0x1f : 3;
    for (; keys > 0 && keys <= 2; keys--) {
        if (end - at < 7 || memcmp(at, "\x65" "beta", 5) != 0 || (at[5] != '1' && at[5] != '2')) return fail(out);
        at = number(at + 6, end, &beta[at[5] - '1']);
        if (at == NULL) return fail(out);
    }
    Lion *lion = keys == 0 ? malloc(sizeof(Lion)) : NULL;
    if (lion == NULL) return fail(out);
    *lion = (Lion){(float)beta[0], (float)beta[1]};
    *made = (MdtObject){lion, free_lion, lion_interface};
    return true;
}

static void keep(const void *data) {
    (void)data;
}

static MdtInterface component_interface(const void *data, MdtStr name) {
    static const MdtPluginComponent table = {describe, create};
    return offer(name, MdtPluginComponent_name, data, &table, MdtPluginComponent_fingerprint);
}

static bool count(const void *object, MdtSink_uint8_t out) {
    (void)object;
    return REPLY(out, "\x01");
}

static bool component(const void *object, uint64_t number, MdtObject *component, MdtSink_uint8_t out) {
    (void)object, (void)number, (void)out;
    *component = (MdtObject){NULL, keep, component_interface};
    return true;
}

static MdtInterface library_interface(const void *data, MdtStr name) {
    static const MdtPluginLibrary table = {count, component};
    return offer(name, MdtPluginLibrary_name, data, &table, MdtPluginLibrary_fingerprint);
}

static bool open_library(void *library, MdtSink_uint8_t out) {
    (void)out;
    *(MdtObject *)library = (MdtObject){NULL, keep, library_interface};
    return true;
}

__attribute__((visibility("default"))) const MdtEntry MDT_PLUGIN_ENTRY = {"mdt plugin 2", open_library};
