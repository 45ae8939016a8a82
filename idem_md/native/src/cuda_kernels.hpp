// The same kernels on CUDA: a group of threads for each chain or ladder, one thread a configuration or sample. Pointers
// are device pointers; everything runs on `stream` and returns before it is done. Failures throw std::runtime_error.
#pragma once
#include <string>

#include "args.hpp"

namespace idem {
namespace cuda {

int device_count(std::string& problem);  // 0 without a usable device, and why
// Makes a device the current one of this thread, and the former one again when it goes out of scope.
class OnDevice {
 public:
  explicit OnDevice(int device);
  ~OnDevice();
  OnDevice(const OnDevice&) = delete;
  OnDevice& operator=(const OnDevice&) = delete;

 private:
  int before_ = 0;
};
// Floats of scratch memory that the kernel of the same name wants at `work`.
int64_t mala_work(const MalaArgs&);
int64_t tempering_work(const TemperingArgs&);
int64_t anneal_work(const AnnealArgs&);
int64_t dem_scores_work(const TargetArgs&);

void energy_forces(const LennardJonesParams&, const float* x, float* u, float* f, int64_t n, uintptr_t stream);
void energy_forces(const LennardJonesParams&, const double* x, double* u, double* f, int64_t n, uintptr_t stream);
void mala(const MalaArgs&, float* work, uintptr_t stream);
void tempering(const TemperingArgs&, float* work, uintptr_t stream);
void anneal(const AnnealArgs&, float* work, uintptr_t stream);
void dem_scores(const TargetArgs&, float* work, uintptr_t stream);
void noise(const NoiseArgs&, uintptr_t stream);
double peak_flops(int64_t n, uintptr_t stream);  // waits for the result

}  // namespace cuda
}  // namespace idem
