/* The boundary between mdt-host and its plugins, generated from mdt-plugin-api.

   A plugin exports one symbol, MDT_PLUGIN_ENTRY, of type MdtEntry. Its `open` writes the library as an object with the
   interface plugin.library/1. Every function returns whether it succeeded. It writes to `out` a record in CBOR (RFC 8949),
   or nothing where it has no reply; where it failed, a record of the error: code, message, component, context, causes. */
#ifndef MDT_PLUGIN_H
#define MDT_PLUGIN_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#if UINTPTR_MAX != UINT64_MAX
#define MDT_LAYOUT(condition)
#elif defined(__cplusplus)
#define MDT_LAYOUT(condition) static_assert(condition, "not the layout of the boundary");
#else
#define MDT_LAYOUT(condition) _Static_assert(condition, "not the layout of the boundary");
#endif

typedef struct {
    const uint8_t *data;
    size_t length;
} MdtStr;
MDT_LAYOUT(sizeof(MdtStr) == 16 && offsetof(MdtStr, data) == 0 && offsetof(MdtStr, length) == 8)

typedef struct {
    const void * object;
    const void * table;
    uint64_t fingerprint;
} MdtInterface;
MDT_LAYOUT(sizeof(MdtInterface) == 24 && offsetof(MdtInterface, object) == 0 && offsetof(MdtInterface, table) == 8 && offsetof(MdtInterface, fingerprint) == 16)

typedef struct {
    const void *data;
    void (*drop)(const void *data);
    MdtInterface (*get)(const void *data, MdtStr name);
} MdtObject;
MDT_LAYOUT(sizeof(MdtObject) == 24 && offsetof(MdtObject, data) == 0 && offsetof(MdtObject, drop) == 8 && offsetof(MdtObject, get) == 16)

typedef struct {
    const uint8_t *data;
    size_t length;
} MdtSlice_uint8_t;
MDT_LAYOUT(sizeof(MdtSlice_uint8_t) == 16 && offsetof(MdtSlice_uint8_t, data) == 0 && offsetof(MdtSlice_uint8_t, length) == 8)

typedef struct {
    void *target;
    void (*write)(void *target, MdtSlice_uint8_t elements);
} MdtSink_uint8_t;
MDT_LAYOUT(sizeof(MdtSink_uint8_t) == 16 && offsetof(MdtSink_uint8_t, target) == 0 && offsetof(MdtSink_uint8_t, write) == 8)

/* The type of MDT_PLUGIN_ENTRY; `magic` is "mdt plugin 2", padded with zeros. */
typedef struct {
    char magic[16];
    bool (*open)(void *library, MdtSink_uint8_t out);
} MdtEntry;
MDT_LAYOUT(sizeof(MdtEntry) == 24 && offsetof(MdtEntry, magic) == 0 && offsetof(MdtEntry, open) == 16)

#define MdtPluginLibrary_name "plugin.library/1"
#define MdtPluginLibrary_fingerprint UINT64_C(0x8a340412db8f7746)
typedef struct {
    bool (*count_components)(const void *object, MdtSink_uint8_t out);
    bool (*component)(const void *object, uint64_t number, MdtObject * component, MdtSink_uint8_t out);
} MdtPluginLibrary;
MDT_LAYOUT(sizeof(MdtPluginLibrary) == 16 && offsetof(MdtPluginLibrary, count_components) == 0 && offsetof(MdtPluginLibrary, component) == 8)

#define MdtPluginComponent_name "plugin.component/1"
#define MdtPluginComponent_fingerprint UINT64_C(0xc8c1df888d308930)
typedef struct {
    bool (*describe)(const void *object, MdtSink_uint8_t out);
    bool (*create)(const void *object, MdtSlice_uint8_t config, MdtSlice_uint8_t setup, MdtObject * services, MdtObject * tokenizer, MdtObject * made, MdtSink_uint8_t out);
} MdtPluginComponent;
MDT_LAYOUT(sizeof(MdtPluginComponent) == 16 && offsetof(MdtPluginComponent, describe) == 0 && offsetof(MdtPluginComponent, create) == 8)

#define MdtHostFunctions_name "host.services/1"
#define MdtHostFunctions_fingerprint UINT64_C(0xf6f20f3781d97ce7)
typedef struct {
    bool (*write_log)(const void *object, uint32_t level, MdtStr message, MdtSink_uint8_t out);
    bool (*report_metric)(const void *object, MdtStr name, double value, MdtSink_uint8_t out);
    bool (*is_cancelled)(const void *object, bool * cancelled, MdtSink_uint8_t out);
} MdtHostFunctions;
MDT_LAYOUT(sizeof(MdtHostFunctions) == 24 && offsetof(MdtHostFunctions, write_log) == 0 && offsetof(MdtHostFunctions, report_metric) == 8 && offsetof(MdtHostFunctions, is_cancelled) == 16)

typedef struct {
    const uint64_t *data;
    size_t length;
} MdtSlice_uint64_t;
MDT_LAYOUT(sizeof(MdtSlice_uint64_t) == 16 && offsetof(MdtSlice_uint64_t, data) == 0 && offsetof(MdtSlice_uint64_t, length) == 8)

typedef struct {
    void *target;
    void (*write)(void *target, MdtSlice_uint64_t elements);
} MdtSink_uint64_t;
MDT_LAYOUT(sizeof(MdtSink_uint64_t) == 16 && offsetof(MdtSink_uint64_t, target) == 0 && offsetof(MdtSink_uint64_t, write) == 8)

#define MdtHostFunction_name "host.function/1"
#define MdtHostFunction_fingerprint UINT64_C(0x1857ad5e432bfede)
typedef struct {
    bool (*call_with)(const void *object, MdtSlice_uint64_t inputs, const MdtSink_uint64_t * results, MdtSink_uint8_t out);
} MdtHostFunction;
MDT_LAYOUT(sizeof(MdtHostFunction) == 8 && offsetof(MdtHostFunction, call_with) == 0)

typedef struct {
    const MdtStr *data;
    size_t length;
} MdtSlice_MdtStr;
MDT_LAYOUT(sizeof(MdtSlice_MdtStr) == 16 && offsetof(MdtSlice_MdtStr, data) == 0 && offsetof(MdtSlice_MdtStr, length) == 8)

typedef struct {
    const int64_t *data;
    size_t length;
} MdtSlice_int64_t;
MDT_LAYOUT(sizeof(MdtSlice_int64_t) == 16 && offsetof(MdtSlice_int64_t, data) == 0 && offsetof(MdtSlice_int64_t, length) == 8)

typedef struct {
    const double *data;
    size_t length;
} MdtSlice_double;
MDT_LAYOUT(sizeof(MdtSlice_double) == 16 && offsetof(MdtSlice_double, data) == 0 && offsetof(MdtSlice_double, length) == 8)

typedef struct {
    MdtStr name;
    uint32_t tag;
    int64_t integer;
    double real;
    MdtSlice_int64_t integers;
    MdtStr text;
    MdtSlice_double reals;
} MdtAttribute;
MDT_LAYOUT(sizeof(MdtAttribute) == 88 && offsetof(MdtAttribute, name) == 0 && offsetof(MdtAttribute, tag) == 16 && offsetof(MdtAttribute, integer) == 24 && offsetof(MdtAttribute, real) == 32 && offsetof(MdtAttribute, integers) == 40 && offsetof(MdtAttribute, text) == 56 && offsetof(MdtAttribute, reals) == 72)

typedef struct {
    const MdtAttribute *data;
    size_t length;
} MdtSlice_MdtAttribute;
MDT_LAYOUT(sizeof(MdtSlice_MdtAttribute) == 16 && offsetof(MdtSlice_MdtAttribute, data) == 0 && offsetof(MdtSlice_MdtAttribute, length) == 8)

typedef struct {
    uint64_t *data;
    size_t length;
} MdtSliceMut_uint64_t;
MDT_LAYOUT(sizeof(MdtSliceMut_uint64_t) == 16 && offsetof(MdtSliceMut_uint64_t, data) == 0 && offsetof(MdtSliceMut_uint64_t, length) == 8)

typedef struct {
    const size_t *data;
    size_t length;
} MdtSlice_size_t;
MDT_LAYOUT(sizeof(MdtSlice_size_t) == 16 && offsetof(MdtSlice_size_t, data) == 0 && offsetof(MdtSlice_size_t, length) == 8)

typedef struct {
    uint32_t dtype;
    MdtSlice_size_t shape;
    MdtSlice_uint8_t bytes;
} MdtArray;
MDT_LAYOUT(sizeof(MdtArray) == 40 && offsetof(MdtArray, dtype) == 0 && offsetof(MdtArray, shape) == 8 && offsetof(MdtArray, bytes) == 24)

typedef struct {
    void *target;
    void (*write)(void *target, MdtSlice_size_t elements);
} MdtSink_size_t;
MDT_LAYOUT(sizeof(MdtSink_size_t) == 16 && offsetof(MdtSink_size_t, target) == 0 && offsetof(MdtSink_size_t, write) == 8)

typedef struct {
    uint8_t * data;
    uint32_t dtype;
} MdtView;
MDT_LAYOUT(sizeof(MdtView) == 16 && offsetof(MdtView, data) == 0 && offsetof(MdtView, dtype) == 8)

typedef struct {
    const ptrdiff_t *data;
    size_t length;
} MdtSlice_ptrdiff_t;
MDT_LAYOUT(sizeof(MdtSlice_ptrdiff_t) == 16 && offsetof(MdtSlice_ptrdiff_t, data) == 0 && offsetof(MdtSlice_ptrdiff_t, length) == 8)

typedef struct {
    void *target;
    void (*write)(void *target, MdtSlice_ptrdiff_t elements);
} MdtSink_ptrdiff_t;
MDT_LAYOUT(sizeof(MdtSink_ptrdiff_t) == 16 && offsetof(MdtSink_ptrdiff_t, target) == 0 && offsetof(MdtSink_ptrdiff_t, write) == 8)

typedef struct {
    uint8_t *data;
    size_t length;
} MdtSliceMut_uint8_t;
MDT_LAYOUT(sizeof(MdtSliceMut_uint8_t) == 16 && offsetof(MdtSliceMut_uint8_t, data) == 0 && offsetof(MdtSliceMut_uint8_t, length) == 8)

typedef struct {
    void *data;
    bool (*call)(void *data, MdtSlice_uint64_t parameters, MdtSlice_uint64_t inputs, const MdtSink_uint64_t *results, MdtSink_uint8_t out);
} MdtFunction;
MDT_LAYOUT(sizeof(MdtFunction) == 16 && offsetof(MdtFunction, data) == 0 && offsetof(MdtFunction, call) == 8)

#define MdtComputeTensors_name "compute.tensors/1"
#define MdtComputeTensors_fingerprint UINT64_C(0x6c43c7d35a6feb0b)
typedef struct {
    bool (*describe)(const void *object, MdtSink_uint8_t out);
    bool (*has_op)(const void *object, uint32_t op, MdtSlice_MdtStr attributes, uint32_t dtype, bool * supported, MdtSink_uint8_t out);
    bool (*apply)(const void *object, uint32_t op, MdtSlice_uint64_t inputs, MdtSlice_MdtAttribute attributes, MdtSliceMut_uint64_t results, MdtSink_uint8_t out);
    bool (*copy_in)(const void *object, const MdtArray * array, uint64_t * tensor, MdtSink_uint8_t out);
    bool (*retain_handle)(const void *object, uint64_t tensor, uint64_t * second, MdtSink_uint8_t out);
    bool (*release_handle)(const void *object, uint64_t tensor, MdtSink_uint8_t out);
    bool (*type_of)(const void *object, uint64_t tensor, uint32_t * dtype, const MdtSink_size_t * shape, MdtSink_uint8_t out);
    bool (*evaluate)(const void *object, MdtSlice_uint64_t tensors, MdtSink_uint8_t out);
    bool (*view)(const void *object, uint64_t tensor, bool writable, MdtView * view, const MdtSink_size_t * shape, const MdtSink_ptrdiff_t * strides, MdtSink_uint8_t out);
    bool (*copy_out)(const void *object, uint64_t tensor, uint32_t dtype, MdtSliceMut_uint8_t elements, MdtSink_uint8_t out);
    bool (*overwrite)(const void *object, uint64_t tensor, const MdtArray * array, MdtSink_uint8_t out);
    bool (*differentiate)(const void *object, MdtFunction function, MdtSlice_uint64_t parameters, MdtSlice_uint64_t inputs, const MdtSink_uint64_t * values, MdtSliceMut_uint64_t gradients, MdtSink_uint8_t out);
    bool (*recompute)(const void *object, MdtObject * function, MdtSlice_uint64_t inputs, const MdtSink_uint64_t * results, MdtSink_uint8_t out);
    bool (*memory_in_use)(const void *object, MdtSink_uint8_t out);
} MdtComputeTensors;
MDT_LAYOUT(sizeof(MdtComputeTensors) == 112 && offsetof(MdtComputeTensors, describe) == 0 && offsetof(MdtComputeTensors, has_op) == 8 && offsetof(MdtComputeTensors, apply) == 16 && offsetof(MdtComputeTensors, copy_in) == 24 && offsetof(MdtComputeTensors, retain_handle) == 32 && offsetof(MdtComputeTensors, release_handle) == 40 && offsetof(MdtComputeTensors, type_of) == 48 && offsetof(MdtComputeTensors, evaluate) == 56 && offsetof(MdtComputeTensors, view) == 64 && offsetof(MdtComputeTensors, copy_out) == 72 && offsetof(MdtComputeTensors, overwrite) == 80 && offsetof(MdtComputeTensors, differentiate) == 88 && offsetof(MdtComputeTensors, recompute) == 96 && offsetof(MdtComputeTensors, memory_in_use) == 104)

#define MdtComputePlan_name "compute.plan/1"
#define MdtComputePlan_fingerprint UINT64_C(0x71d9d5003796ad49)
typedef struct {
    bool (*stand_in)(const void *object, uint32_t dtype, MdtSlice_size_t shape, uint64_t * tensor, MdtSink_uint8_t out);
    bool (*plan_evaluation)(const void *object, MdtSlice_uint64_t tensors, bool * planned, MdtSink_uint8_t out);
} MdtComputePlan;
MDT_LAYOUT(sizeof(MdtComputePlan) == 16 && offsetof(MdtComputePlan, stand_in) == 0 && offsetof(MdtComputePlan, plan_evaluation) == 8)

typedef struct {
    double scale;
    size_t window;
    double soft_cap;
    double dropout;
} MdtAttention;
MDT_LAYOUT(sizeof(MdtAttention) == 32 && offsetof(MdtAttention, scale) == 0 && offsetof(MdtAttention, window) == 8 && offsetof(MdtAttention, soft_cap) == 16 && offsetof(MdtAttention, dropout) == 24)

typedef struct {
    bool training;
    size_t length;
} MdtPass;
MDT_LAYOUT(sizeof(MdtPass) == 16 && offsetof(MdtPass, training) == 0 && offsetof(MdtPass, length) == 8)

#define MdtHostForward_name "host.forward/1"
#define MdtHostForward_fingerprint UINT64_C(0x55211e4e22a73441)
typedef struct {
    bool (*apply_linears)(const void *object, MdtSlice_MdtStr names, uint64_t x, MdtSliceMut_uint64_t results, MdtSink_uint8_t out);
    bool (*apply_expert_linears)(const void *object, MdtSlice_MdtStr names, uint64_t x, uint64_t experts, MdtSliceMut_uint64_t results, MdtSink_uint8_t out);
    bool (*look_up)(const void *object, MdtStr name, uint64_t ids, uint64_t * result, MdtSink_uint8_t out);
    bool (*parameter_named)(const void *object, MdtStr name, uint64_t * result, MdtSink_uint8_t out);
    bool (*token_positions)(const void *object, uint64_t * result, MdtSink_uint8_t out);
    bool (*rotate)(const void *object, uint64_t x, uint64_t inverse_frequencies, double scale, uint64_t * result, MdtSink_uint8_t out);
    bool (*attend)(const void *object, MdtStr name, uint64_t queries, uint64_t keys, uint64_t values, const MdtAttention * options, uint64_t * result, MdtSink_uint8_t out);
    bool (*run_block)(const void *object, MdtStr name, MdtSlice_uint64_t inputs, MdtObject * function, const MdtSink_uint64_t * results, MdtSink_uint8_t out);
    bool (*add_auxiliary_loss)(const void *object, MdtStr name, uint64_t value, double coefficient, MdtSink_uint8_t out);
    bool (*earlier_state)(const void *object, MdtStr name, uint64_t * result, MdtSink_uint8_t out);
    bool (*keep_state)(const void *object, MdtStr name, uint64_t tensor, MdtSink_uint8_t out);
    bool (*random_key)(const void *object, MdtStr place, uint64_t * key, MdtSink_uint8_t out);
    bool (*describe_pass)(const void *object, MdtPass * pass, MdtSink_uint8_t out);
} MdtHostForward;
MDT_LAYOUT(sizeof(MdtHostForward) == 104 && offsetof(MdtHostForward, apply_linears) == 0 && offsetof(MdtHostForward, apply_expert_linears) == 8 && offsetof(MdtHostForward, look_up) == 16 && offsetof(MdtHostForward, parameter_named) == 24 && offsetof(MdtHostForward, token_positions) == 32 && offsetof(MdtHostForward, rotate) == 40 && offsetof(MdtHostForward, attend) == 48 && offsetof(MdtHostForward, run_block) == 56 && offsetof(MdtHostForward, add_auxiliary_loss) == 64 && offsetof(MdtHostForward, earlier_state) == 72 && offsetof(MdtHostForward, keep_state) == 80 && offsetof(MdtHostForward, random_key) == 88 && offsetof(MdtHostForward, describe_pass) == 96)

#define MdtModelBlock_name "model.block/1"
#define MdtModelBlock_fingerprint UINT64_C(0xc919e8b95fe04f96)
typedef struct {
    bool (*compute_block)(const void *object, MdtObject * host, MdtObject * compute, MdtSlice_uint64_t inputs, const MdtSink_uint64_t * results, MdtSink_uint8_t out);
} MdtModelBlock;
MDT_LAYOUT(sizeof(MdtModelBlock) == 8 && offsetof(MdtModelBlock, compute_block) == 0)

#define MdtModelForward_name "model.forward/1"
#define MdtModelForward_fingerprint UINT64_C(0x1fbdedcd367fdbf6)
typedef struct {
    bool (*describe)(const void *object, MdtSink_uint8_t out);
    bool (*forward)(const void *object, MdtObject * host, MdtObject * compute, uint64_t tokens, uint64_t * hidden, MdtSink_uint8_t out);
} MdtModelForward;
MDT_LAYOUT(sizeof(MdtModelForward) == 16 && offsetof(MdtModelForward, describe) == 0 && offsetof(MdtModelForward, forward) == 8)

typedef struct {
    const uint32_t *data;
    size_t length;
} MdtSlice_uint32_t;
MDT_LAYOUT(sizeof(MdtSlice_uint32_t) == 16 && offsetof(MdtSlice_uint32_t, data) == 0 && offsetof(MdtSlice_uint32_t, length) == 8)

typedef struct {
    void *target;
    void (*write)(void *target, MdtSlice_uint32_t elements);
} MdtSink_uint32_t;
MDT_LAYOUT(sizeof(MdtSink_uint32_t) == 16 && offsetof(MdtSink_uint32_t, target) == 0 && offsetof(MdtSink_uint32_t, write) == 8)

typedef struct {
    const bool *data;
    size_t length;
} MdtSlice_bool;
MDT_LAYOUT(sizeof(MdtSlice_bool) == 16 && offsetof(MdtSlice_bool, data) == 0 && offsetof(MdtSlice_bool, length) == 8)

typedef struct {
    void *target;
    void (*write)(void *target, MdtSlice_bool elements);
} MdtSink_bool;
MDT_LAYOUT(sizeof(MdtSink_bool) == 16 && offsetof(MdtSink_bool, target) == 0 && offsetof(MdtSink_bool, write) == 8)

#define MdtTokenizerText_name "tokenizer.text/1"
#define MdtTokenizerText_fingerprint UINT64_C(0xdee774301ffdbd95)
typedef struct {
    bool (*describe_vocabulary)(const void *object, MdtSink_uint8_t out);
    bool (*encode_text)(const void *object, MdtStr text, const MdtSink_uint32_t * ids, const MdtSink_size_t * offsets, MdtSink_uint8_t out);
    bool (*decode_tokens)(const void *object, MdtSlice_uint32_t tokens, MdtSink_uint8_t out);
    bool (*render_messages)(const void *object, MdtSlice_uint8_t messages, bool prompt, const MdtSink_uint32_t * ids, const MdtSink_size_t * offsets, const MdtSink_bool * assistant, MdtSink_uint8_t out);
    bool (*list_files)(const void *object, MdtSink_uint8_t out);
} MdtTokenizerText;
MDT_LAYOUT(sizeof(MdtTokenizerText) == 40 && offsetof(MdtTokenizerText, describe_vocabulary) == 0 && offsetof(MdtTokenizerText, encode_text) == 8 && offsetof(MdtTokenizerText, decode_tokens) == 16 && offsetof(MdtTokenizerText, render_messages) == 24 && offsetof(MdtTokenizerText, list_files) == 32)

#define MdtTokenizerNotes_name "tokenizer.notes/1"
#define MdtTokenizerNotes_fingerprint UINT64_C(0x46a0c16dfd4e1a36)
typedef struct {
    bool (*render_with_notes)(const void *object, MdtSlice_uint8_t messages, const MdtSink_uint32_t * ids, const MdtSink_size_t * offsets, const MdtSink_bool * assistant, MdtSink_uint8_t out);
} MdtTokenizerNotes;
MDT_LAYOUT(sizeof(MdtTokenizerNotes) == 8 && offsetof(MdtTokenizerNotes, render_with_notes) == 0)

#define MdtHostModel_name "host.model/1"
#define MdtHostModel_fingerprint UINT64_C(0x36bf3eabfbae4e17)
typedef struct {
    bool (*hidden_states)(const void *object, uint64_t tokens, uint64_t positions, uint64_t segments, uint64_t * result, MdtSink_uint8_t out);
    bool (*logits)(const void *object, uint64_t hidden, uint64_t * result, MdtSink_uint8_t out);
    bool (*losses_of)(const void *object, uint64_t hidden, uint64_t targets, uint64_t * result, MdtSink_uint8_t out);
    bool (*frozen_model)(const void *object, MdtStr name, MdtObject * model, MdtSink_uint8_t out);
    bool (*trainers_parameter)(const void *object, MdtStr name, uint64_t * result, MdtSink_uint8_t out);
} MdtHostModel;
MDT_LAYOUT(sizeof(MdtHostModel) == 40 && offsetof(MdtHostModel, hidden_states) == 0 && offsetof(MdtHostModel, logits) == 8 && offsetof(MdtHostModel, losses_of) == 16 && offsetof(MdtHostModel, frozen_model) == 24 && offsetof(MdtHostModel, trainers_parameter) == 32)

typedef struct {
    MdtStr name;
    MdtSlice_uint32_t tokens;
    MdtSlice_bool supervised;
    uint64_t truncated;
} MdtSequence;
MDT_LAYOUT(sizeof(MdtSequence) == 56 && offsetof(MdtSequence, name) == 0 && offsetof(MdtSequence, tokens) == 16 && offsetof(MdtSequence, supervised) == 32 && offsetof(MdtSequence, truncated) == 48)

typedef struct {
    const MdtSequence *data;
    size_t length;
} MdtSlice_MdtSequence;
MDT_LAYOUT(sizeof(MdtSlice_MdtSequence) == 16 && offsetof(MdtSlice_MdtSequence, data) == 0 && offsetof(MdtSlice_MdtSequence, length) == 8)

typedef struct {
    MdtStr name;
    MdtSlice_double values;
} MdtNumbers;
MDT_LAYOUT(sizeof(MdtNumbers) == 32 && offsetof(MdtNumbers, name) == 0 && offsetof(MdtNumbers, values) == 16)

typedef struct {
    const MdtNumbers *data;
    size_t length;
} MdtSlice_MdtNumbers;
MDT_LAYOUT(sizeof(MdtSlice_MdtNumbers) == 16 && offsetof(MdtSlice_MdtNumbers, data) == 0 && offsetof(MdtSlice_MdtNumbers, length) == 8)

typedef struct {
    MdtSlice_MdtSequence sequences;
    MdtSlice_MdtNumbers numbers;
} MdtItem;
MDT_LAYOUT(sizeof(MdtItem) == 32 && offsetof(MdtItem, sequences) == 0 && offsetof(MdtItem, numbers) == 16)

typedef struct {
    const MdtItem *data;
    size_t length;
} MdtSlice_MdtItem;
MDT_LAYOUT(sizeof(MdtSlice_MdtItem) == 16 && offsetof(MdtSlice_MdtItem, data) == 0 && offsetof(MdtSlice_MdtItem, length) == 8)

typedef struct {
    MdtStr name;
    uint64_t tensor;
} MdtNamed;
MDT_LAYOUT(sizeof(MdtNamed) == 24 && offsetof(MdtNamed, name) == 0 && offsetof(MdtNamed, tensor) == 16)

typedef struct {
    const MdtNamed *data;
    size_t length;
} MdtSlice_MdtNamed;
MDT_LAYOUT(sizeof(MdtSlice_MdtNamed) == 16 && offsetof(MdtSlice_MdtNamed, data) == 0 && offsetof(MdtSlice_MdtNamed, length) == 8)

typedef struct {
    uint64_t sum;
    uint64_t weight;
} MdtLoss;
MDT_LAYOUT(sizeof(MdtLoss) == 16 && offsetof(MdtLoss, sum) == 0 && offsetof(MdtLoss, weight) == 8)

#define MdtTrainerObjective_name "trainer.objective/1"
#define MdtTrainerObjective_fingerprint UINT64_C(0x1f504f3c3d0a9f83)
typedef struct {
    bool (*encode_example)(const void *object, MdtSlice_uint8_t example, MdtSink_uint8_t out);
    bool (*collate_items)(const void *object, MdtSlice_MdtItem items, MdtSlice_size_t items_per_row, MdtSink_uint8_t out);
    bool (*compute_loss)(const void *object, MdtObject * model, MdtObject * compute, MdtSlice_MdtNamed batch, MdtLoss * loss, const MdtSink_uint64_t * metric_handles, MdtSink_uint8_t out);
} MdtTrainerObjective;
MDT_LAYOUT(sizeof(MdtTrainerObjective) == 24 && offsetof(MdtTrainerObjective, encode_example) == 0 && offsetof(MdtTrainerObjective, collate_items) == 8 && offsetof(MdtTrainerObjective, compute_loss) == 16)

typedef struct {
    size_t count;
    size_t max_tokens;
    double temperature;
    uint64_t seed;
    MdtSlice_uint32_t stop;
} MdtSampling;
MDT_LAYOUT(sizeof(MdtSampling) == 48 && offsetof(MdtSampling, count) == 0 && offsetof(MdtSampling, max_tokens) == 8 && offsetof(MdtSampling, temperature) == 16 && offsetof(MdtSampling, seed) == 24 && offsetof(MdtSampling, stop) == 32)

typedef struct {
    const float *data;
    size_t length;
} MdtSlice_float;
MDT_LAYOUT(sizeof(MdtSlice_float) == 16 && offsetof(MdtSlice_float, data) == 0 && offsetof(MdtSlice_float, length) == 8)

typedef struct {
    void *target;
    void (*write)(void *target, MdtSlice_float elements);
} MdtSink_float;
MDT_LAYOUT(sizeof(MdtSink_float) == 16 && offsetof(MdtSink_float, target) == 0 && offsetof(MdtSink_float, write) == 8)

#define MdtHostGeneration_name "host.generation/1"
#define MdtHostGeneration_fingerprint UINT64_C(0x775567dd2893db88)
typedef struct {
    bool (*draw_answers)(const void *object, MdtSlice_uint32_t prompt, const MdtSampling * sampling, const MdtSink_uint32_t * tokens, const MdtSink_float * log_probs, const MdtSink_size_t * lengths, MdtSink_uint8_t out);
} MdtHostGeneration;
MDT_LAYOUT(sizeof(MdtHostGeneration) == 8 && offsetof(MdtHostGeneration, draw_answers) == 0)

#define MdtTrainerPrepare_name "trainer.prepare/1"
#define MdtTrainerPrepare_fingerprint UINT64_C(0x2aae48e746465350)
typedef struct {
    bool (*prepare_items)(const void *object, uint64_t seed, MdtObject * model, MdtObject * generation, MdtObject * compute, MdtSlice_MdtItem items, MdtSink_uint8_t out);
} MdtTrainerPrepare;
MDT_LAYOUT(sizeof(MdtTrainerPrepare) == 8 && offsetof(MdtTrainerPrepare, prepare_items) == 0)

#define MdtTrainerReference_name "trainer.reference/1"
#define MdtTrainerReference_fingerprint UINT64_C(0x65ca7512f094433f)
typedef struct {
    bool (*needs_a_reference)(const void *object, bool * needed, MdtSink_uint8_t out);
} MdtTrainerReference;
MDT_LAYOUT(sizeof(MdtTrainerReference) == 8 && offsetof(MdtTrainerReference, needs_a_reference) == 0)

typedef struct {
    void *target;
    void (*write)(void *target, MdtSlice_double elements);
} MdtSink_double;
MDT_LAYOUT(sizeof(MdtSink_double) == 16 && offsetof(MdtSink_double, target) == 0 && offsetof(MdtSink_double, write) == 8)

#define MdtTrainerEvaluation_name "trainer.evaluation/1"
#define MdtTrainerEvaluation_fingerprint UINT64_C(0x843c78a1b85a423d)
typedef struct {
    bool (*evaluate_items)(const void *object, uint64_t seed, MdtObject * model, MdtObject * generation, MdtObject * compute, MdtSlice_MdtItem items, const MdtSink_double * numbers, MdtSink_uint8_t out);
} MdtTrainerEvaluation;
MDT_LAYOUT(sizeof(MdtTrainerEvaluation) == 8 && offsetof(MdtTrainerEvaluation, evaluate_items) == 0)

#define MdtTrainerOwnParameters_name "trainer.parameters/1"
#define MdtTrainerOwnParameters_fingerprint UINT64_C(0x41853e2b727291e1)
typedef struct {
    bool (*own_parameters)(const void *object, MdtSlice_uint8_t model, MdtSink_uint8_t out);
} MdtTrainerOwnParameters;
MDT_LAYOUT(sizeof(MdtTrainerOwnParameters) == 8 && offsetof(MdtTrainerOwnParameters, own_parameters) == 0)

typedef struct {
    MdtStr name;
    MdtSlice_size_t shape;
    uint32_t role;
    uint32_t layout;
    uint64_t step;
    uint64_t planned_steps;
    double learning_rate;
    double weight_decay;
} MdtUpdate;
MDT_LAYOUT(sizeof(MdtUpdate) == 72 && offsetof(MdtUpdate, name) == 0 && offsetof(MdtUpdate, shape) == 16 && offsetof(MdtUpdate, role) == 32 && offsetof(MdtUpdate, layout) == 36 && offsetof(MdtUpdate, step) == 40 && offsetof(MdtUpdate, planned_steps) == 48 && offsetof(MdtUpdate, learning_rate) == 56 && offsetof(MdtUpdate, weight_decay) == 64)

typedef struct {
    float *data;
    size_t length;
} MdtSliceMut_float;
MDT_LAYOUT(sizeof(MdtSliceMut_float) == 16 && offsetof(MdtSliceMut_float, data) == 0 && offsetof(MdtSliceMut_float, length) == 8)

typedef struct {
    MdtSliceMut_float *data;
    size_t length;
} MdtSliceMut_MdtSliceMut_float;
MDT_LAYOUT(sizeof(MdtSliceMut_MdtSliceMut_float) == 16 && offsetof(MdtSliceMut_MdtSliceMut_float, data) == 0 && offsetof(MdtSliceMut_MdtSliceMut_float, length) == 8)

#define MdtOptimizerSlices_name "optimizer.slices/1"
#define MdtOptimizerSlices_fingerprint UINT64_C(0xc1b99738d31466b2)
typedef struct {
    bool (*states)(const void *object, MdtSink_uint8_t out);
    bool (*granularity)(const void *object, MdtSlice_uint8_t parameter, MdtSink_uint8_t out);
    bool (*update)(const void *object, const MdtUpdate * update, MdtSliceMut_float parameter, MdtSlice_float gradient, MdtSliceMut_MdtSliceMut_float states, MdtSink_uint8_t out);
} MdtOptimizerSlices;
MDT_LAYOUT(sizeof(MdtOptimizerSlices) == 24 && offsetof(MdtOptimizerSlices, states) == 0 && offsetof(MdtOptimizerSlices, granularity) == 8 && offsetof(MdtOptimizerSlices, update) == 16)

#define MdtOptimizerTypedStates_name "optimizer.typed_states/1"
#define MdtOptimizerTypedStates_fingerprint UINT64_C(0x9c0a862863f3c313)
typedef struct {
    bool (*states_of)(const void *object, MdtSlice_uint8_t parameter, MdtSink_uint8_t out);
} MdtOptimizerTypedStates;
MDT_LAYOUT(sizeof(MdtOptimizerTypedStates) == 8 && offsetof(MdtOptimizerTypedStates, states_of) == 0)

typedef struct {
    uint32_t dtype;
    void * data;
    size_t length;
} MdtState;
MDT_LAYOUT(sizeof(MdtState) == 24 && offsetof(MdtState, dtype) == 0 && offsetof(MdtState, data) == 8 && offsetof(MdtState, length) == 16)

typedef struct {
    const MdtState *data;
    size_t length;
} MdtSlice_MdtState;
MDT_LAYOUT(sizeof(MdtSlice_MdtState) == 16 && offsetof(MdtSlice_MdtState, data) == 0 && offsetof(MdtSlice_MdtState, length) == 8)

#define MdtOptimizerTypedSlices_name "optimizer.typed_slices/1"
#define MdtOptimizerTypedSlices_fingerprint UINT64_C(0xb8f71177edc876a8)
typedef struct {
    bool (*granularity_of)(const void *object, MdtSlice_uint8_t parameter, MdtSink_uint8_t out);
    bool (*update_typed)(const void *object, const MdtUpdate * update, MdtSliceMut_float parameter, MdtSlice_float gradient, MdtSlice_MdtState states, MdtSink_uint8_t out);
} MdtOptimizerTypedSlices;
MDT_LAYOUT(sizeof(MdtOptimizerTypedSlices) == 16 && offsetof(MdtOptimizerTypedSlices, granularity_of) == 0 && offsetof(MdtOptimizerTypedSlices, update_typed) == 8)

#define MdtOptimizerDevice_name "optimizer.device/1"
#define MdtOptimizerDevice_fingerprint UINT64_C(0x7fcad995ed9fa67f)
typedef struct {
    bool (*update_tensors)(const void *object, const MdtUpdate * update, MdtObject * compute, uint64_t parameter, uint64_t gradient, MdtSlice_uint64_t states, const MdtSink_uint64_t * new_values, MdtSink_uint8_t out);
} MdtOptimizerDevice;
MDT_LAYOUT(sizeof(MdtOptimizerDevice) == 8 && offsetof(MdtOptimizerDevice, update_tensors) == 0)

#define MdtOptimizerEvaluationWeights_name "optimizer.evaluation_weights/1"
#define MdtOptimizerEvaluationWeights_fingerprint UINT64_C(0xd0b3cd22ff730c05)
typedef struct {
    bool (*write_weights)(const void *object, const MdtUpdate * update, MdtSliceMut_float weights, MdtSlice_MdtState states, MdtSink_uint8_t out);
} MdtOptimizerEvaluationWeights;
MDT_LAYOUT(sizeof(MdtOptimizerEvaluationWeights) == 8 && offsetof(MdtOptimizerEvaluationWeights, write_weights) == 0)

#define MdtDataRows_name "data.rows/1"
#define MdtDataRows_fingerprint UINT64_C(0x96d9656068e20440)
typedef struct {
    bool (*row_count)(const void *object, MdtSink_uint8_t out);
    bool (*next_rows)(const void *object, uint64_t most, MdtSink_uint8_t out);
    bool (*position)(const void *object, MdtSink_uint8_t out);
    bool (*restore_position)(const void *object, MdtStr position, MdtSink_uint8_t out);
} MdtDataRows;
MDT_LAYOUT(sizeof(MdtDataRows) == 32 && offsetof(MdtDataRows, row_count) == 0 && offsetof(MdtDataRows, next_rows) == 8 && offsetof(MdtDataRows, position) == 16 && offsetof(MdtDataRows, restore_position) == 24)

#define MdtDataPlaces_name "data.places/1"
#define MdtDataPlaces_fingerprint UINT64_C(0xc359f044d1b331f1)
typedef struct {
    bool (*position_of)(const void *object, uint64_t row, MdtSink_uint8_t out);
} MdtDataPlaces;
MDT_LAYOUT(sizeof(MdtDataPlaces) == 8 && offsetof(MdtDataPlaces, position_of) == 0)

#define MdtCommBackends_name "comm.backend/1"
#define MdtCommBackends_fingerprint UINT64_C(0x76ddc1248273e8c1)
typedef struct {
    bool (*describe)(const void *object, MdtSink_uint8_t out);
    bool (*connect)(const void *object, MdtSlice_uint8_t bootstrap, MdtObject * communicator, MdtSink_uint8_t out);
} MdtCommBackends;
MDT_LAYOUT(sizeof(MdtCommBackends) == 16 && offsetof(MdtCommBackends, describe) == 0 && offsetof(MdtCommBackends, connect) == 8)

typedef struct {
    uint8_t *data;
    size_t length;
    uint32_t dtype;
    const void *owner;
    void (*release)(const void *owner);
} MdtBuffer;
MDT_LAYOUT(sizeof(MdtBuffer) == 40 && offsetof(MdtBuffer, data) == 0 && offsetof(MdtBuffer, length) == 8 && offsetof(MdtBuffer, dtype) == 16 && offsetof(MdtBuffer, owner) == 24 && offsetof(MdtBuffer, release) == 32)

typedef struct {
    MdtBuffer *data;
    size_t length;
} MdtSliceMut_MdtBuffer;
MDT_LAYOUT(sizeof(MdtSliceMut_MdtBuffer) == 16 && offsetof(MdtSliceMut_MdtBuffer, data) == 0 && offsetof(MdtSliceMut_MdtBuffer, length) == 8)

#define MdtCommCollectives_name "comm.collectives/1"
#define MdtCommCollectives_fingerprint UINT64_C(0xe29b8a05d8a2f397)
typedef struct {
    bool (*place)(const void *object, uint32_t * rank, uint32_t * world_size, MdtSink_uint8_t out);
    bool (*start_all_reduce)(const void *object, MdtSliceMut_MdtBuffer buffers, uint32_t op, MdtObject * work, MdtSink_uint8_t out);
    bool (*start_all_gather)(const void *object, MdtBuffer * buffer, MdtObject * work, MdtSink_uint8_t out);
    bool (*start_broadcast)(const void *object, MdtSliceMut_MdtBuffer buffers, uint32_t root, MdtObject * work, MdtSink_uint8_t out);
    bool (*start_barrier)(const void *object, MdtObject * work, MdtSink_uint8_t out);
    bool (*abort_all)(const void *object, MdtStr reason, MdtSink_uint8_t out);
} MdtCommCollectives;
MDT_LAYOUT(sizeof(MdtCommCollectives) == 48 && offsetof(MdtCommCollectives, place) == 0 && offsetof(MdtCommCollectives, start_all_reduce) == 8 && offsetof(MdtCommCollectives, start_all_gather) == 16 && offsetof(MdtCommCollectives, start_broadcast) == 24 && offsetof(MdtCommCollectives, start_barrier) == 32 && offsetof(MdtCommCollectives, abort_all) == 40)

#define MdtCommReduceScatter_name "comm.reduce_scatter/1"
#define MdtCommReduceScatter_fingerprint UINT64_C(0x086f6ba791bba9b2)
typedef struct {
    bool (*start_reduce_scatter)(const void *object, MdtBuffer * buffer, uint32_t op, MdtObject * work, MdtSink_uint8_t out);
} MdtCommReduceScatter;
MDT_LAYOUT(sizeof(MdtCommReduceScatter) == 8 && offsetof(MdtCommReduceScatter, start_reduce_scatter) == 0)

#define MdtCommPointToPoint_name "comm.point_to_point/1"
#define MdtCommPointToPoint_fingerprint UINT64_C(0x19fd35477720d530)
typedef struct {
    bool (*start_send)(const void *object, MdtBuffer * buffer, uint32_t to, MdtObject * work, MdtSink_uint8_t out);
    bool (*start_receive)(const void *object, MdtBuffer * buffer, uint32_t from, MdtObject * work, MdtSink_uint8_t out);
} MdtCommPointToPoint;
MDT_LAYOUT(sizeof(MdtCommPointToPoint) == 16 && offsetof(MdtCommPointToPoint, start_send) == 0 && offsetof(MdtCommPointToPoint, start_receive) == 8)

#define MdtCommMemory_name "comm.regions/1"
#define MdtCommMemory_fingerprint UINT64_C(0x4fca53647992dbd5)
typedef struct {
    bool (*make_region)(const void *object, size_t bytes, MdtBuffer * region, MdtSink_uint8_t out);
} MdtCommMemory;
MDT_LAYOUT(sizeof(MdtCommMemory) == 8 && offsetof(MdtCommMemory, make_region) == 0)

#define MdtCommWork_name "comm.work/1"
#define MdtCommWork_fingerprint UINT64_C(0x9d70bfed395334cb)
typedef struct {
    bool (*wait_for)(const void *object, uint64_t nanoseconds, bool * done, MdtSliceMut_MdtBuffer slots, MdtSink_uint8_t out);
    bool (*read_progress)(const void *object, uint64_t * progress, MdtSink_uint8_t out);
} MdtCommWork;
MDT_LAYOUT(sizeof(MdtCommWork) == 16 && offsetof(MdtCommWork, wait_for) == 0 && offsetof(MdtCommWork, read_progress) == 8)

#define MdtObserverEvents_name "observer.events/1"
#define MdtObserverEvents_fingerprint UINT64_C(0x5d3643119ed370ca)
typedef struct {
    bool (*observe_event)(const void *object, MdtSlice_uint8_t observation, MdtSink_uint8_t out);
} MdtObserverEvents;
MDT_LAYOUT(sizeof(MdtObserverEvents) == 8 && offsetof(MdtObserverEvents, observe_event) == 0)

#endif
