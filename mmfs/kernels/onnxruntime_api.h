// What onnxruntime_*.h need of onnxruntime's C interface, whose headers no wheel of onnxruntime ships.
//
// The interface is one table of functions, to which versions only append (OrtApi of onnxruntime_c_api.h, and the
// assertions on its size in onnxruntime_c_api.cc, at github.com/microsoft/onnxruntime). So a function is known by its
// place in the table, and a table of version 24, of onnxruntime 1.24, holds all that are named here.
// tests/mmfs/test_onnxruntime.py checks them by running.

#pragma once

#include <cstddef>
#include <cstdint>

namespace mmfs {
namespace ort {

constexpr uint32_t API_VERSION = 24;

// Opaque: onnxruntime hands out pointers to these.
struct Status;
struct SessionOptions;
struct CustomOpDomain;
struct KernelInfo;
struct KernelContext;
struct Value;
struct TypeAndShape;
struct ShapeInferContext;
struct KeyValuePairs;
struct Allocator;

// enum OrtErrorCode
enum ErrorCode : int { FAIL = 1, INVALID_ARGUMENT = 2, RUNTIME_EXCEPTION = 6, NOT_IMPLEMENTED = 9 };

// enum ONNXTensorElementDataType
enum ElementType : int {
    UNDEFINED = 0,
    FLOAT = 1,
    INT32 = 6,
    INT64 = 7,
    HALF = 10,
    DOUBLE = 11,
    BFLOAT = 16,
};

// enum OrtMemType
enum MemoryType : int { CPU_INPUT = -2, DEFAULT_MEMORY = 0 };  // in the host's memory; where the execution provider has it

// OrtApi
using Api = void (*const)();

struct ApiBase {
    Api* (*get_api)(uint32_t version);  // null for a version that is newer than the library
    const char* (*get_version_string)();
};

template <int SLOT, typename Signature>
struct Function;
template <int SLOT, typename Result, typename... Parameters>
struct Function<SLOT, Result(Parameters...)> {
    static Result call(Api* api, Parameters... parameters) {
        return reinterpret_cast<Result (*)(Parameters...)>(api[SLOT])(parameters...);
    }
};

using CreateStatus = Function<0, Status*(ErrorCode, const char*)>;
using GetErrorMessage = Function<2, const char*(const Status*)>;
using CreateCustomOpDomain = Function<26, Status*(const char*, CustomOpDomain**)>;
using CustomOpDomain_Add = Function<27, Status*(CustomOpDomain*, const struct CustomOp*)>;
using AddCustomOpDomain = Function<28, Status*(SessionOptions*, CustomOpDomain*)>;
using GetTensorMutableData = Function<51, Status*(Value*, void**)>;
using CreateTensorTypeAndShapeInfo = Function<57, Status*(TypeAndShape**)>;
using SetTensorElementType = Function<58, Status*(TypeAndShape*, ElementType)>;
using SetDimensions = Function<59, Status*(TypeAndShape*, const int64_t*, size_t)>;
using GetTensorElementType = Function<60, Status*(const TypeAndShape*, ElementType*)>;
using GetDimensionsCount = Function<61, Status*(const TypeAndShape*, size_t*)>;
using GetDimensions = Function<62, Status*(const TypeAndShape*, int64_t*, size_t)>;
using GetSymbolicDimensions = Function<63, Status*(const TypeAndShape*, const char**, size_t)>;
using GetTensorTypeAndShape = Function<65, Status*(const Value*, TypeAndShape**)>;
using AllocatorAlloc = Function<75, Status*(Allocator*, size_t, void**)>;
using AllocatorFree = Function<76, Status*(Allocator*, void*)>;
using KernelInfoGetAttribute_float = Function<85, Status*(const KernelInfo*, const char*, float*)>;
using KernelInfoGetAttribute_int64 = Function<86, Status*(const KernelInfo*, const char*, int64_t*)>;
using KernelContext_GetInput = Function<90, Status*(const KernelContext*, size_t, const Value**)>;
using KernelContext_GetOutput = Function<91, Status*(KernelContext*, size_t, const int64_t*, size_t, Value**)>;
using ReleaseStatus = Function<93, void(Status*)>;
using ReleaseTensorTypeAndShapeInfo = Function<99, void(TypeAndShape*)>;
using ReleaseAllocator = Function<132, void(Allocator*)>;
using KernelInfoGetAttributeArray_int64 = Function<163, Status*(const KernelInfo*, const char*, int64_t*, size_t*)>;
using KernelContext_GetGPUComputeStream = Function<193, Status*(const KernelContext*, void**)>;
using ShapeInferContext_GetInputTypeShape = Function<268, Status*(const ShapeInferContext*, size_t, TypeAndShape**)>;
using ShapeInferContext_SetOutputTypeShape =
    Function<270, Status*(const ShapeInferContext*, size_t, const TypeAndShape*)>;
using SetSymbolicDimensions = Function<271, Status*(TypeAndShape*, const char**, size_t)>;
using KernelContext_ParallelFor =
    Function<274, Status*(const KernelContext*, void (*)(void*, size_t), size_t, size_t, void*)>;
using KernelInfoGetAllocator = Function<278, Status*(const KernelInfo*, MemoryType, Allocator**)>;
using GetKeyValue = Function<297, const char*(const KeyValuePairs*, const char*)>;
using ReleaseKeyValuePairs = Function<300, void(KeyValuePairs*)>;
using KernelInfo_GetConfigEntries = Function<391, Status*(const KernelInfo*, KeyValuePairs**)>;

// OrtCustomOp: a node that onnxruntime learns. Which fields it reads depends on the version.
struct CustomOp {
    uint32_t version;
    void* (*create_kernel)(const CustomOp*, Api*, const KernelInfo*);  // null: create_kernel_v2
    const char* (*get_name)(const CustomOp*);
    const char* (*get_execution_provider_type)(const CustomOp*);
    ElementType (*get_input_type)(const CustomOp*, size_t);
    size_t (*get_input_type_count)(const CustomOp*);
    ElementType (*get_output_type)(const CustomOp*, size_t);
    size_t (*get_output_type_count)(const CustomOp*);
    void (*kernel_compute)(void*, KernelContext*);  // null: kernel_compute_v2
    void (*kernel_destroy)(void*);
    int (*get_input_characteristic)(const CustomOp*, size_t);
    int (*get_output_characteristic)(const CustomOp*, size_t);
    MemoryType (*get_input_memory_type)(const CustomOp*, size_t);
    int (*get_variadic_input_min_arity)(const CustomOp*);
    int (*get_variadic_input_homogeneity)(const CustomOp*);
    int (*get_variadic_output_min_arity)(const CustomOp*);
    int (*get_variadic_output_homogeneity)(const CustomOp*);
    Status* (*create_kernel_v2)(const CustomOp*, Api*, const KernelInfo*, void**);
    Status* (*kernel_compute_v2)(void*, KernelContext*);
    Status* (*infer_output_shape)(const CustomOp*, ShapeInferContext*);
    int (*get_start_version)(const CustomOp*);
    int (*get_end_version)(const CustomOp*);
    size_t (*get_may_inplace)(int**, int**);
    void (*release_may_inplace)(int*, int*);
    size_t (*get_alias_map)(int**, int**);
    void (*release_alias_map)(int*, int*);
};

}  // namespace ort
}  // namespace mmfs
