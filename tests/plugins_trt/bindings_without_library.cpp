// What TensorRT's Python bindings want of its libraries, where only the bindings are installed. Nothing can be built or
// run with it; plugins are registered with the registry of TensorRT-RTX, whose file is RTX_LIBRARY.

#include <dlfcn.h>

extern "C" {

void* createInferBuilder_INTERNAL(void*, int) { return nullptr; }
void* createInferRefitter_INTERNAL(void*, void*, int) { return nullptr; }
void* createInferRuntime_INTERNAL(void*, int) { return nullptr; }
void* createNvOnnxParser_INTERNAL(void*, void*, int) { return nullptr; }
void* createNvOnnxParserRefitter_INTERNAL(void*, void*, int) { return nullptr; }
void* getBuilderPluginRegistry(int) { return nullptr; }
int getNvOnnxParserVersion() { return 0; }
bool initLibNvInferPlugins(void*, const char*) { return true; }

void* getPluginRegistry() {
    void* library = dlopen(RTX_LIBRARY, RTLD_NOW | RTLD_LOCAL);
    return library == nullptr ? nullptr : reinterpret_cast<void* (*)()>(dlsym(library, "getPluginRegistry"))();
}
}
