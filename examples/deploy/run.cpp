// Runs the package that export.py wrote, without Python, and prints what export.py printed: for each size, T, B and the
// scores of the last sequence.
#include <ATen/ATen.h>
#include <torch/csrc/inductor/aoti_package/model_package_loader.h>

#include <cstdint>
#include <cstdio>
#include <exception>
#include <iostream>
#include <utility>

int main(int argc, char** argv) {
  if (argc != 2) {
    std::cerr << "usage: run PACKAGE\n";
    return 2;
  }
  try {
    constexpr int64_t I = 8;
    const c10::InferenceMode mode;
    torch::inductor::AOTIModelPackageLoader model(argv[1]);
    for (const auto& [T, B] : {std::pair<int64_t, int64_t>{5, 3}, {40, 1}}) {
      const at::Tensor x = at::arange(T * B * I, at::kFloat).div(T * B * I).view({T, B, I});
      const at::Tensor lengths = T - at::arange(B);
      const at::Tensor scores = model.run({x, lengths})[0][-1];
      std::printf("%ld %ld", static_cast<long>(T), static_cast<long>(B));
      for (int64_t i = 0; i < scores.numel(); ++i) std::printf(" %.5f", scores[i].item<float>());
      std::printf("\n");
    }
  } catch (const c10::Error& error) {
    std::cerr << "run: " << error.what_without_backtrace() << '\n';
    return 1;
  } catch (const std::exception& error) {
    std::cerr << "run: " << error.what() << '\n';
    return 1;
  }
  return 0;
}
