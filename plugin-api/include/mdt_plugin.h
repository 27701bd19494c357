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
#define MdtPluginComponent_fingerprint UINT64_C(0xffffdf3abb2a4ff9)
typedef struct {
    bool (*describe)(const void *object, MdtSink_uint8_t out);
    bool (*create)(const void *object, MdtSlice_uint8_t config, MdtSlice_uint8_t setup, MdtObject * services, MdtObject * made, MdtSink_uint8_t out);
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
    const int64_t *data;
    size_t length;
} MdtSlice_int64_t;
MDT_LAYOUT(sizeof(MdtSlice_int64_t) == 16 && offsetof(MdtSlice_int64_t, data) == 0 && offsetof(MdtSlice_int64_t, length) == 8)

typedef struct {
    MdtStr name;
    uint32_t tag;
    int64_t integer;
    double real;
    MdtSlice_int64_t integers;
} MdtAttribute;
MDT_LAYOUT(sizeof(MdtAttribute) == 56 && offsetof(MdtAttribute, name) == 0 && offsetof(MdtAttribute, tag) == 16 && offsetof(MdtAttribute, integer) == 24 && offsetof(MdtAttribute, real) == 32 && offsetof(MdtAttribute, integers) == 40)

typedef struct {
    const MdtAttribute *data;
    size_t length;
} MdtSlice_MdtAttribute;
MDT_LAYOUT(sizeof(MdtSlice_MdtAttribute) == 16 && offsetof(MdtSlice_MdtAttribute, data) == 0 && offsetof(MdtSlice_MdtAttribute, length) == 8)

typedef struct {
    void *target;
    void (*write)(void *target, MdtSlice_uint64_t elements);
} MdtSink_uint64_t;
MDT_LAYOUT(sizeof(MdtSink_uint64_t) == 16 && offsetof(MdtSink_uint64_t, target) == 0 && offsetof(MdtSink_uint64_t, write) == 8)

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
#define MdtComputeTensors_fingerprint UINT64_C(0x554f48a8afff1973)
typedef struct {
    bool (*describe)(const void *object, MdtSink_uint8_t out);
    bool (*has_op)(const void *object, uint32_t op, MdtSink_uint8_t out);
    bool (*apply)(const void *object, uint32_t op, MdtSlice_uint64_t inputs, MdtSlice_MdtAttribute attributes, const MdtSink_uint64_t * results, MdtSink_uint8_t out);
    bool (*copy_in)(const void *object, const MdtArray * array, uint64_t * tensor, MdtSink_uint8_t out);
    bool (*retain_handle)(const void *object, uint64_t tensor, uint64_t * second, MdtSink_uint8_t out);
    bool (*release_handle)(const void *object, uint64_t tensor, MdtSink_uint8_t out);
    bool (*type_of)(const void *object, uint64_t tensor, uint32_t * dtype, const MdtSink_size_t * shape, MdtSink_uint8_t out);
    bool (*evaluate)(const void *object, MdtSlice_uint64_t tensors, MdtSink_uint8_t out);
    bool (*view)(const void *object, uint64_t tensor, bool writable, MdtView * view, const MdtSink_size_t * shape, const MdtSink_ptrdiff_t * strides, MdtSink_uint8_t out);
    bool (*copy_out)(const void *object, uint64_t tensor, MdtSliceMut_uint8_t bytes, MdtSink_uint8_t out);
    bool (*differentiate)(const void *object, MdtFunction function, MdtSlice_uint64_t parameters, MdtSlice_uint64_t inputs, const MdtSink_uint64_t * values, const MdtSink_uint64_t * gradients, MdtSink_uint8_t out);
    bool (*memory_in_use)(const void *object, MdtSink_uint8_t out);
} MdtComputeTensors;
MDT_LAYOUT(sizeof(MdtComputeTensors) == 96 && offsetof(MdtComputeTensors, describe) == 0 && offsetof(MdtComputeTensors, has_op) == 8 && offsetof(MdtComputeTensors, apply) == 16 && offsetof(MdtComputeTensors, copy_in) == 24 && offsetof(MdtComputeTensors, retain_handle) == 32 && offsetof(MdtComputeTensors, release_handle) == 40 && offsetof(MdtComputeTensors, type_of) == 48 && offsetof(MdtComputeTensors, evaluate) == 56 && offsetof(MdtComputeTensors, view) == 64 && offsetof(MdtComputeTensors, copy_out) == 72 && offsetof(MdtComputeTensors, differentiate) == 80 && offsetof(MdtComputeTensors, memory_in_use) == 88)

#define MdtHostWeights_name "host.weights/1"
#define MdtHostWeights_fingerprint UINT64_C(0x17fab34f61430d13)
typedef struct {
    bool (*apply_linear)(const void *object, MdtStr name, uint64_t x, uint64_t * result, MdtSink_uint8_t out);
    bool (*look_up)(const void *object, MdtStr name, uint64_t ids, uint64_t * result, MdtSink_uint8_t out);
    bool (*normalise)(const void *object, MdtStr name, uint64_t x, double eps, uint64_t * result, MdtSink_uint8_t out);
    bool (*parameter_named)(const void *object, MdtStr name, uint64_t * result, MdtSink_uint8_t out);
} MdtHostWeights;
MDT_LAYOUT(sizeof(MdtHostWeights) == 32 && offsetof(MdtHostWeights, apply_linear) == 0 && offsetof(MdtHostWeights, look_up) == 8 && offsetof(MdtHostWeights, normalise) == 16 && offsetof(MdtHostWeights, parameter_named) == 24)

typedef struct {
    uint64_t tokens;
    uint64_t positions;
    uint64_t segments;
    bool cached;
    size_t cache_length;
    MdtSlice_uint64_t cache;
} MdtModelInput;
MDT_LAYOUT(sizeof(MdtModelInput) == 56 && offsetof(MdtModelInput, tokens) == 0 && offsetof(MdtModelInput, positions) == 8 && offsetof(MdtModelInput, segments) == 16 && offsetof(MdtModelInput, cached) == 24 && offsetof(MdtModelInput, cache_length) == 32 && offsetof(MdtModelInput, cache) == 40)

#define MdtModelForward_name "model.forward/1"
#define MdtModelForward_fingerprint UINT64_C(0x0fb4411b0f4a23d3)
typedef struct {
    bool (*describe)(const void *object, MdtSink_uint8_t out);
    bool (*forward)(const void *object, MdtObject * weights, MdtObject * compute, const MdtModelInput * input, uint64_t * hidden, size_t * cache_length, const MdtSink_uint64_t * cache, MdtSink_uint8_t out);
    bool (*apply_head)(const void *object, MdtObject * weights, MdtObject * compute, uint64_t hidden, uint64_t * logits, MdtSink_uint8_t out);
} MdtModelForward;
MDT_LAYOUT(sizeof(MdtModelForward) == 24 && offsetof(MdtModelForward, describe) == 0 && offsetof(MdtModelForward, forward) == 8 && offsetof(MdtModelForward, apply_head) == 16)

#define MdtHostModel_name "host.model/1"
#define MdtHostModel_fingerprint UINT64_C(0x2e5a128598b42ab8)
typedef struct {
    bool (*hidden_states)(const void *object, uint64_t tokens, uint64_t positions, uint64_t segments, uint64_t * result, MdtSink_uint8_t out);
    bool (*logits)(const void *object, uint64_t hidden, uint64_t * result, MdtSink_uint8_t out);
} MdtHostModel;
MDT_LAYOUT(sizeof(MdtHostModel) == 16 && offsetof(MdtHostModel, hidden_states) == 0 && offsetof(MdtHostModel, logits) == 8)

typedef struct {
    const uint32_t *data;
    size_t length;
} MdtSlice_uint32_t;
MDT_LAYOUT(sizeof(MdtSlice_uint32_t) == 16 && offsetof(MdtSlice_uint32_t, data) == 0 && offsetof(MdtSlice_uint32_t, length) == 8)

typedef struct {
    const bool *data;
    size_t length;
} MdtSlice_bool;
MDT_LAYOUT(sizeof(MdtSlice_bool) == 16 && offsetof(MdtSlice_bool, data) == 0 && offsetof(MdtSlice_bool, length) == 8)

typedef struct {
    MdtSlice_uint32_t tokens;
    MdtSlice_bool supervised;
    uint64_t truncated;
} MdtEncoded;
MDT_LAYOUT(sizeof(MdtEncoded) == 40 && offsetof(MdtEncoded, tokens) == 0 && offsetof(MdtEncoded, supervised) == 16 && offsetof(MdtEncoded, truncated) == 32)

typedef struct {
    const MdtEncoded *data;
    size_t length;
} MdtSlice_MdtEncoded;
MDT_LAYOUT(sizeof(MdtSlice_MdtEncoded) == 16 && offsetof(MdtSlice_MdtEncoded, data) == 0 && offsetof(MdtSlice_MdtEncoded, length) == 8)

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
#define MdtTrainerObjective_fingerprint UINT64_C(0x2a80b36eea9b187a)
typedef struct {
    bool (*describe_vocabulary)(const void *object, MdtSink_uint8_t out);
    bool (*encode_example)(const void *object, MdtSlice_uint8_t example, MdtSink_uint8_t out);
    bool (*encode_prompt_of)(const void *object, MdtSlice_uint8_t example, MdtSink_uint8_t out);
    bool (*decode_tokens)(const void *object, MdtSlice_uint32_t tokens, MdtSink_uint8_t out);
    bool (*collate_rows)(const void *object, MdtSlice_MdtEncoded rows, MdtSink_uint8_t out);
    bool (*compute_loss)(const void *object, MdtObject * model, MdtObject * compute, MdtSlice_MdtNamed batch, MdtLoss * loss, const MdtSink_uint64_t * metric_handles, MdtSink_uint8_t out);
} MdtTrainerObjective;
MDT_LAYOUT(sizeof(MdtTrainerObjective) == 48 && offsetof(MdtTrainerObjective, describe_vocabulary) == 0 && offsetof(MdtTrainerObjective, encode_example) == 8 && offsetof(MdtTrainerObjective, encode_prompt_of) == 16 && offsetof(MdtTrainerObjective, decode_tokens) == 24 && offsetof(MdtTrainerObjective, collate_rows) == 32 && offsetof(MdtTrainerObjective, compute_loss) == 40)

typedef struct {
    MdtStr name;
    MdtSlice_size_t shape;
    uint64_t step;
    uint64_t planned_steps;
    double learning_rate;
    double weight_decay;
} MdtUpdate;
MDT_LAYOUT(sizeof(MdtUpdate) == 64 && offsetof(MdtUpdate, name) == 0 && offsetof(MdtUpdate, shape) == 16 && offsetof(MdtUpdate, step) == 32 && offsetof(MdtUpdate, planned_steps) == 40 && offsetof(MdtUpdate, learning_rate) == 48 && offsetof(MdtUpdate, weight_decay) == 56)

typedef struct {
    float *data;
    size_t length;
} MdtSliceMut_float;
MDT_LAYOUT(sizeof(MdtSliceMut_float) == 16 && offsetof(MdtSliceMut_float, data) == 0 && offsetof(MdtSliceMut_float, length) == 8)

typedef struct {
    const float *data;
    size_t length;
} MdtSlice_float;
MDT_LAYOUT(sizeof(MdtSlice_float) == 16 && offsetof(MdtSlice_float, data) == 0 && offsetof(MdtSlice_float, length) == 8)

typedef struct {
    MdtSliceMut_float *data;
    size_t length;
} MdtSliceMut_MdtSliceMut_float;
MDT_LAYOUT(sizeof(MdtSliceMut_MdtSliceMut_float) == 16 && offsetof(MdtSliceMut_MdtSliceMut_float, data) == 0 && offsetof(MdtSliceMut_MdtSliceMut_float, length) == 8)

#define MdtOptimizerSlices_name "optimizer.slices/1"
#define MdtOptimizerSlices_fingerprint UINT64_C(0xe2558ef78a636424)
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
#define MdtOptimizerTypedSlices_fingerprint UINT64_C(0xfe2eaadf5d4fe68a)
typedef struct {
    bool (*granularity_of)(const void *object, MdtSlice_uint8_t parameter, MdtSink_uint8_t out);
    bool (*update_typed)(const void *object, const MdtUpdate * update, MdtSliceMut_float parameter, MdtSlice_float gradient, MdtSlice_MdtState states, MdtSink_uint8_t out);
} MdtOptimizerTypedSlices;
MDT_LAYOUT(sizeof(MdtOptimizerTypedSlices) == 16 && offsetof(MdtOptimizerTypedSlices, granularity_of) == 0 && offsetof(MdtOptimizerTypedSlices, update_typed) == 8)

#define MdtOptimizerDevice_name "optimizer.device/1"
#define MdtOptimizerDevice_fingerprint UINT64_C(0xb68b84b98a709dcd)
typedef struct {
    bool (*update_tensors)(const void *object, const MdtUpdate * update, MdtObject * compute, uint64_t parameter, uint64_t gradient, MdtSlice_uint64_t states, const MdtSink_uint64_t * new_values, MdtSink_uint8_t out);
} MdtOptimizerDevice;
MDT_LAYOUT(sizeof(MdtOptimizerDevice) == 8 && offsetof(MdtOptimizerDevice, update_tensors) == 0)

#define MdtOptimizerEvaluationWeights_name "optimizer.evaluation_weights/1"
#define MdtOptimizerEvaluationWeights_fingerprint UINT64_C(0x9b86da1563d434fb)
typedef struct {
    bool (*write_weights)(const void *object, const MdtUpdate * update, MdtSliceMut_float weights, MdtSlice_MdtState states, MdtSink_uint8_t out);
} MdtOptimizerEvaluationWeights;
MDT_LAYOUT(sizeof(MdtOptimizerEvaluationWeights) == 8 && offsetof(MdtOptimizerEvaluationWeights, write_weights) == 0)

#define MdtDataExamples_name "data.examples/1"
#define MdtDataExamples_fingerprint UINT64_C(0x32a6d5f016f4b6a8)
typedef struct {
    bool (*length)(const void *object, MdtSink_uint8_t out);
    bool (*next_example)(const void *object, MdtSink_uint8_t out);
    bool (*position)(const void *object, MdtSink_uint8_t out);
    bool (*restore_position)(const void *object, MdtStr position, MdtSink_uint8_t out);
} MdtDataExamples;
MDT_LAYOUT(sizeof(MdtDataExamples) == 32 && offsetof(MdtDataExamples, length) == 0 && offsetof(MdtDataExamples, next_example) == 8 && offsetof(MdtDataExamples, position) == 16 && offsetof(MdtDataExamples, restore_position) == 24)

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
