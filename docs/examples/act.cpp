// An exported agent in C++: act POLICY.onnx [IDENTITY] reads an observation a line and writes an action a line.
// An empty line begins a new episode. IDENTITY are the agent's numbers of that name in manifest.json: 1,0,0
#include <cstdlib>
#include <cstring>
#include <iostream>
#include <map>
#include <sstream>
#include <string>
#include <vector>
#if __has_include(<onnxruntime_c_api.h>)
#include <onnxruntime_c_api.h>
#else
#include "ort_table.h"
#endif

static const OrtApi* ort = OrtGetApiBase()->GetApi(ORT_API_VERSION);

static void check(OrtStatus* status) {
  if (status == nullptr) return;
  std::cerr << "onnxruntime: " << ort->GetErrorMessage(status) << std::endl;
  std::exit(1);
}

struct Input {  // one input of the graph, in memory that onnxruntime reads
  std::string name;
  ONNXTensorElementDataType type;
  std::vector<int64_t> shape;
  std::vector<char> bytes;
  size_t count = 1;

  void fill(const std::vector<float>& numbers) {  // whatever is missing at the end is padding: zeros
    if (numbers.size() > count) {
      std::cerr << name << ": expected " << count << " numbers, got " << numbers.size() << std::endl;
      std::exit(1);
    }
    std::fill(bytes.begin(), bytes.end(), 0);
    for (size_t k = 0; k < numbers.size(); k++) {
      if (type == ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT) reinterpret_cast<float*>(bytes.data())[k] = numbers[k];
      else bytes[k] = static_cast<char>(numbers[k]);  // pixels, and what is legal
    }
  }
};

static Input input_of(OrtSession* session, OrtAllocator* allocator, size_t place) {
  Input found;
  char* name;
  check(ort->SessionGetInputName(session, place, allocator, &name));
  found.name = name;
  OrtTypeInfo* info;
  const OrtTensorTypeAndShapeInfo* tensor;
  size_t axes;
  check(ort->SessionGetInputTypeInfo(session, place, &info));
  check(ort->CastTypeInfoToTensorInfo(info, &tensor));
  check(ort->GetTensorElementType(tensor, &found.type));
  check(ort->GetDimensionsCount(tensor, &axes));
  found.shape.resize(axes);
  check(ort->GetDimensions(tensor, found.shape.data(), axes));
  ort->ReleaseTypeInfo(info);
  found.shape[0] = 1;  // of the batch
  for (int64_t size : found.shape) found.count *= static_cast<size_t>(size);
  found.bytes.resize(found.count * (found.type == ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT ? sizeof(float) : 1));
  return found;
}

static std::vector<float> numbers_in(std::string text) {
  for (char& letter : text) if (letter == ',') letter = ' ';
  std::istringstream words(text);
  std::vector<float> found;
  for (float number; words >> number;) found.push_back(number);
  return found;
}

int main(int count, char** words) {
  if (count < 2 || ort == nullptr) return std::cerr << "usage: act POLICY.onnx [IDENTITY]" << std::endl, 2;
  OrtEnv* env;
  OrtSessionOptions* options;
  OrtSession* session;
  OrtAllocator* allocator;
  OrtMemoryInfo* memory;
  check(ort->CreateEnv(ORT_LOGGING_LEVEL_WARNING, "agent", &env));
  check(ort->CreateSessionOptions(&options));
  check(ort->SetIntraOpNumThreads(options, 1));  // more only cost time where a policy is small
  check(ort->CreateSession(env, words[1], options, &session));
  check(ort->GetAllocatorWithDefaultOptions(&allocator));
  check(ort->CreateCpuMemoryInfo(OrtDeviceAllocator, OrtMemTypeDefault, &memory));

  size_t inputs, outputs;
  check(ort->SessionGetInputCount(session, &inputs));
  check(ort->SessionGetOutputCount(session, &outputs));
  std::vector<Input> given;
  std::map<std::string, Input*> by_name;
  for (size_t k = 0; k < inputs; k++) given.push_back(input_of(session, allocator, k));
  for (Input& one : given) by_name[one.name] = &one;
  if (by_name.count("identity")) by_name["identity"]->fill(numbers_in(count > 2 ? words[2] : ""));
  if (by_name.count("action_mask")) by_name["action_mask"]->fill(std::vector<float>(by_name["action_mask"]->count, 1));
  if (by_name.count("uniform")) by_name["uniform"]->fill(std::vector<float>(by_name["uniform"]->count, 0.5f));
  bool remembers = false;
  for (size_t k = 0; k < outputs; k++) {
    char* name;
    check(ort->SessionGetOutputName(session, k, allocator, &name));
    remembers = remembers || std::strcmp(name, "next_carry") == 0;
  }
  std::vector<const char*> reads;
  std::vector<OrtValue*> values(inputs, nullptr);
  for (size_t k = 0; k < inputs; k++) {
    Input& one = given[k];
    reads.push_back(one.name.c_str());
    check(ort->CreateTensorWithDataAsOrtValue(memory, one.bytes.data(), one.bytes.size(), one.shape.data(),
                                              one.shape.size(), one.type, &values[k]));
  }

  for (std::string line; std::getline(std::cin, line);) {
    if (line.empty()) {
      if (remembers) by_name["carry"]->fill({});
      continue;
    }
    by_name["observation"]->fill(numbers_in(line));
    const char* writes[] = {"greedy", "next_carry"};
    OrtValue* results[] = {nullptr, nullptr};
    check(ort->Run(session, nullptr, reads.data(), values.data(), inputs, writes, remembers ? 2 : 1, results));
    OrtTensorTypeAndShapeInfo* shape;
    ONNXTensorElementDataType type;
    size_t numbers;
    void* action;
    check(ort->GetTensorTypeAndShape(results[0], &shape));
    check(ort->GetTensorElementType(shape, &type));
    check(ort->GetTensorShapeElementCount(shape, &numbers));
    check(ort->GetTensorMutableData(results[0], &action));
    std::cout.precision(9);
    for (size_t k = 0; k < numbers; k++) {
      if (k) std::cout << ' ';
      if (type == ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT) std::cout << static_cast<float*>(action)[k];
      else std::cout << static_cast<int64_t*>(action)[k];
    }
    std::cout << std::endl;
    ort->ReleaseTensorTypeAndShapeInfo(shape);
    ort->ReleaseValue(results[0]);
    if (remembers) {
      void* carry;
      check(ort->GetTensorMutableData(results[1], &carry));
      std::memcpy(by_name["carry"]->bytes.data(), carry, by_name["carry"]->bytes.size());
      ort->ReleaseValue(results[1]);
    }
  }
  return 0;
}
